"""Notebooks -> executed notebooks -> book -> verdict on its claims, and PDF.

    snakemake                                         the published book
    snakemake --configfile config/quick.yaml          the same from small runs
    snakemake --configfile config/book.yaml config/full.yaml    with further pages, on other data
    snakemake pdf                                     the book, and the whole of it as one PDF
    snakemake --config solutions=no                   the book without the solutions of its exercises
    snakemake notebooks                               the executed notebooks only
    snakemake table --configfile config/replicate.yaml    all chapters on other seeds, and a table of their claims
    vae-lab sweep 03_vae -p latents=2,8,32            runs beside the book (vae_workflow/sweeps.py): the same target
    snakemake --config notebooks='{03_vae: {epochs: 5}}'   another parameter, this time

An executed notebook depends on the notebook, its parameters, the modules of the package that it imports, directly
or not, and the lock file; the book also on everything in book/, and on the whole package, since two of its pages
are made from it. Snakemake compares contents, so touching a file re-runs nothing.
"""

import json
import os
import re
import signal
import sys
from pathlib import Path

if (Path(workflow.basedir) / "vae_workflow").is_dir():  # in a checkout, the one that is beside this file
    sys.path.insert(0, workflow.basedir)
from vae_workflow.files import claim

# Snakemake deletes its temporary folders at its end, but not when it is killed, which may be at any moment.
CLAIMS_ON_FOLDERS = [claim(workflow.snakemake_tmp_dir)]
if own := workflow.sourcecache.runtime_cache:  # and not that of the Snakemake that started this one
    CLAIMS_ON_FOLDERS.append(claim(Path(own.name)))

from filelock import FileLock, Timeout
from snakemake.exceptions import WorkflowError

from vae_workflow.executed import read_claims, take_away_damaged
from vae_workflow.execution import summary
from vae_workflow.jobs import stop_with
from vae_workflow.pages import BEHIND_ALL_PAGES, PDF, page_files
from vae_workflow.sources import PACKAGE, files_of
from vae_workflow.workplace import PARENT, Workplace, absent, lock_file, near

if os.environ.get(PARENT) == str(os.getppid()):  # and not in a job on another machine
    stop_with(os.getppid())
    # What a shell starts in the background ignores interruptions, and so would this process.
    signal.signal(signal.SIGINT, signal.default_int_handler)

if "name" not in config:

    configfile: "config/book.yaml"


if missing := {"name", "notebooks"} - set(config):
    raise WorkflowError(f"The configuration lacks {', '.join(sorted(missing))}; config/book.yaml shows all keys.")

PRIORITY = {name: place for place, name in enumerate(reversed(config.get("longest", [])), start=1)}
FAILING, KNOWN = config.get("failing_claims", "error"), config.get("known_failures", {})
NAME, LIMIT = config["name"], config.get("time_limit", 0)
SOLUTIONS = str(config.get("solutions", "yes")).lower()
if SOLUTIONS not in {"yes", "true", "no", "false"}:
    raise WorkflowError(f"solutions is yes or no, and not {SOLUTIONS}.")
SOLUTIONS = SOLUTIONS in {"yes", "true"}
OUTPUT = config.get("output", f"build/{NAME}")
if Path(NAME).is_absolute() or ".." in Path(NAME).parts:  # folders of that name are made and deleted
    raise WorkflowError(f"The name of a configuration is that of a folder in build/, and not {NAME}.")
# Sources are at hand wherever a job runs, and results are where Snakemake's default storage says.
PLACE = Workplace(Path.cwd())
LOCK = local(str(near(PLACE.lock)))
SOURCES = PLACE.notebooks()
# A page or run NAME--VARIANT comes from the notebook NAME, by other parameters. A page is left out if this
# machine lacks the data.
NOTEBOOKS = {name: parameters or {} for name, parameters in config["notebooks"].items()}
if variants := config.get("variants"):  # each of the notebooks in each of these settings
    NOTEBOOKS = {
        f"{name}--{variant}": parameters | chosen
        for variant, chosen in variants.items()
        for name, parameters in NOTEBOOKS.items()
    }
for name in [name for name in NOTEBOOKS if "--" in name and "output" in config]:
    if lacking := absent(NOTEBOOKS[name]):
        print(
            f"{name} is left out: this machine has no {' and '.join(lacking)}. "
            "Set VAE_LAB_DATA to a folder that has it, or see the book's page on data.",
            file=sys.stderr,
        )
        del NOTEBOOKS[name]
EXECUTED = f"build/{NAME}/notebooks/{{notebook}}.ipynb"
INDEX = f"{OUTPUT}/_build/html/index.html"
CLAIMS = f"build/{NAME}/claims.json"
FAILED = f"build/{NAME}/failed/{{notebook}}.ipynb"

# A dry run only names what is damaged, and so would be made again. The command line sees to its own runs.
DRY_RUN = workflow.output_settings.dryrun
if workflow.is_main_process and (DRY_RUN or PARENT not in os.environ):
    complain = lambda text: print(text, file=sys.stderr)
    take_away_damaged(map(Path, expand(EXECUTED, notebook=NOTEBOOKS)), complain, dry_run=DRY_RUN)
    take_away_damaged([Path(CLAIMS)], complain, read_claims, DRY_RUN)

# `exec` makes the job a child of Snakemake itself, whose death it watches for (see vae_workflow/jobs.py).
JOB = "exec {sys.executable:q} -m vae_workflow.jobs"


def source(wildcards):
    """The notebook of a page or run NAME or NAME--VARIANT."""
    name = wildcards.notebook.partition("--")[0]
    if name not in SOURCES:
        raise WorkflowError(f"There is no notebook {name}.ipynb, neither in notebooks/ nor in the package.")
    return SOURCES[name]


def modules(wildcards):
    return [local(str(path)) for path in files_of(source(wildcards))]



rule all:
    input:
        # All of them: for the sake of the last alone, Snakemake would not make what is missing of the others.
        expand(EXECUTED, notebook=NOTEBOOKS),
        INDEX,
        CLAIMS,


rule claims:
    input:
        INDEX,  # readers of the book then see which do not hold
        executed=expand(EXECUTED, notebook=NOTEBOOKS),
    output:
        CLAIMS,
    params:
        failing=FAILING,
        known=json.dumps(KNOWN, sort_keys=True),
    shell:
        JOB + " claims --parent $PPID {output} {params.failing} {params.known:q} {input.executed}"


rule book:
    input:
        sorted(map(str, page_files(Path("book")))),
        sorted(map(str, Path(PACKAGE).rglob("*.py"))),
        list(filter(os.path.exists, BEHIND_ALL_PAGES)),
        LOCK,
        executed=expand(EXECUTED, notebook=NOTEBOOKS),
    output:
        INDEX,
    params:
        staged=f"build/{NAME}/source",
        output=OUTPUT,
        parameters=json.dumps(NOTEBOOKS, sort_keys=True),
        solutions="" if SOLUTIONS else "--no-solutions",
    shell:
        JOB
        + " book --parent $PPID {params.solutions} book {params.staged} {params.output} {params.parameters:q} {input.executed}"


rule pdf:
    input:
        INDEX,
    output:
        f"{OUTPUT}/_build/html/{PDF}",
    params:
        html=f"{OUTPUT}/_build/html",
    shell:
        JOB + " pdf --parent $PPID {params.html}"


rule notebooks:
    input:
        expand(EXECUTED, notebook=NOTEBOOKS),


rule table:
    input:
        expand(EXECUTED, notebook=NOTEBOOKS),
    output:
        local(config.get("table", f"build/{NAME}/claims.csv")),
    shell:
        JOB + " table --parent $PPID {output:q} {input:q}"


rule notebook:
    input:
        modules,
        LOCK,
        notebook=lambda wildcards: local(str(near(source(wildcards)))),
    output:
        EXECUTED,
    params:
        failed=FAILED,  # not an output, which Snakemake would delete when the job fails
        parameters=lambda wildcards: json.dumps(NOTEBOOKS[wildcards.notebook], sort_keys=True),
    wildcard_constraints:
        notebook="|".join(map(re.escape, NOTEBOOKS)),
    priority: lambda wildcards: PRIORITY.get(wildcards.notebook, PRIORITY.get(wildcards.notebook.partition("--")[0], 0))
    resources:
        time_limit=LIMIT,  # no parameter, whose change would run everything again
    threads: 1  # also OMP_NUM_THREADS: numbers then do not depend on what else runs
    shell:
        JOB + " notebook --parent $PPID --limit {resources.time_limit} {input.notebook:q} {output:q} {params.failed:q}"
        " {params.parameters:q}"


os.makedirs("build", exist_ok=True)
lock = FileLock(lock_file(Path.cwd(), NAME))


onstart:
    # The kernel releases this lock when its process ends, however it ends.
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise WorkflowError(
            f"Another run of '{NAME}' is at work in this checkout. Wait until it has ended, then start again."
        )


onerror:
    print(
        summary(
            {name: (EXECUTED.format(notebook=name), FAILED.format(notebook=name)) for name in NOTEBOOKS},
            INDEX,
        ),
        file=sys.stderr,
    )
