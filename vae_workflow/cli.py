"""See what can be changed in the notebooks, change it, run it here or on a cluster, and compare.

Run it in a checkout, or in a folder of your own: there the notebooks are those of the package and your own in
`notebooks`. Snakemake executes the runs: what is done is skipped, what was interrupted is carried on.

Exit codes: 0, all is well; 1, a run failed or a claim does not hold; 2, wrong use, and nothing was started;
3, other runs of the notebook go on; 130, interrupted.
"""

from __future__ import annotations

import difflib
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from filelock import Timeout
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .console import (
    BUSY,
    FAILED,
    INTERRUPTED,
    REFUSED,
    as_table,
    claims_in,
    err,
    json_of,
    out,
    refuse,
    report,
    say,
    show_claims,
    survive_any_locale,
)
from .executed import Damaged, read_claims, read_executed
from .experiments import Experiment, NotAnExperiment, read_experiment
from .files import write_all, write_whole
from .forks import LISTS, CannotList, fault_in_name, fault_of_file, listed, text_of_fork
from .settings import grid
from .sweeps import Busy, CannotRead, CannotWrite, Runs, delete_runs, folders_of_runs, lock_of, stored
from .tables import as_csv, as_parquet, column, results
from .workplace import RUNS, Workplace

MOST_LETTERS = 100  # of a name, in a message
MORE_IN_A_CHECKOUT = "A checkout of the project adds the book, its tests and the locked versions."

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__, rich_markup_mode=None)


def workplace() -> Workplace:
    """The checkout that the working directory lies in, or the working directory itself."""
    return Workplace.around(Path.cwd())


def names(incomplete: str = "") -> list[str]:
    """The notebooks at hand, for the shell's completion too."""
    return [name for name in workplace().notebooks() if name.startswith(incomplete)]


Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A notebook, such as 03_vae.", autocompletion=names)
]
OptionalName = Annotated[
    str | None, typer.Argument(metavar="[NAME]", help="Only this notebook.", autocompletion=names)
]
AsJson = Annotated[bool, typer.Option("--json", help="For programs: JSON on standard output.")]
Settings = Annotated[
    list[str],
    typer.Option("-p", "--parameter", metavar="NAME=VALUE", help="A parameter; may be given several times."),
]
TimeLimit = Annotated[
    int | None, typer.Option(min=1, help="Seconds after which a run is stopped. Default: none.")
]
Storage = Annotated[
    str | None, typer.Option(metavar="URL", help="Where results are kept, such as s3://bucket/folder.")
]


def needs_checkout(what: str, instead: str) -> None:
    """Refuses what there is in a checkout only."""
    place = workplace()
    if not place.is_checkout:
        refuse(f"{what}: {place.root} is not inside a checkout of vae_lab. {MORE_IN_A_CHECKOUT} {instead}")


def find(name: str) -> Experiment:
    known = names()
    if name not in known:
        meant = Path(name).stem  # of a path, too
        near = [n for n in known if meant and meant in n]
        near += difflib.get_close_matches(meant[:MOST_LETTERS], known, n=1, cutoff=0.0)
        hint = f"; did you mean {near[0]}?" if near else "."
        refuse(f"{name[:MOST_LETTERS] or repr(name)}: no such notebook{hint} `vae-lab list` has all.")
    if fault := fault_of_file(name):
        refuse(f"{name}: {fault}")
    try:
        return read_experiment(workplace().notebooks()[name], workplace().root)
    except NotAnExperiment as error:
        refuse(str(error))


def check_where(storage: str | None, executor: str | None = None) -> None:
    """Refuses what is not the URL of a storage, and what is not the name of an executor."""
    if storage is not None and not re.fullmatch(r"[a-z][a-z0-9+.-]*://(?!.*\.\.)\S+", storage):
        refuse(f"{storage!r} is not a storage; write a URL, such as s3://bucket/folder")
    if executor is not None and not re.fullmatch(r"[a-z][a-z0-9-]*", executor):
        refuse(f"{executor!r} does not name an executor; they are called slurm, kubernetes, …")
    if executor == "kubernetes" and not storage:
        refuse("Nothing is shared with Kubernetes but a storage: say which, by --storage s3://bucket/folder")


def points_of(one: Experiment, settings: Sequence[str], several: bool = False) -> list[dict[str, Any]]:
    """`grid`, whose complaints are the user's to read."""
    try:
        return grid(one, settings, several)
    except ValueError as error:
        refuse(str(error))


@app.command("list")
def list_notebooks(name: OptionalName = None, as_json: AsJson = False) -> None:
    """The notebooks, the question of each, and its parameters: default, allowed values, meaning."""
    found = [find(name)] if name is not None else []
    for each in names() if name is None else ():
        try:
            found.append(read_experiment(workplace().notebooks()[each], workplace().root))
        except NotAnExperiment as error:
            say(str(error))
    if as_json:
        keys = ("default", "allowed", "meaning", "schema")
        content = {
            one.name: {
                "title": one.title,
                "question": one.question,
                "parameters": {p.name: {k: getattr(p, k) for k in keys} for p in one.parameters.values()},
            }
            for one in found
        }
        print(json.dumps(content, indent=1))
        return
    for one in found:
        out.print(f"[bold]{escape(one.name)}[/]  {escape(one.question)}", highlight=False)
        if name is not None:
            rows = [(p.name, repr(p.default), p.allowed, p.meaning) for p in one.parameters.values()]
            out.print(as_table(rows, "parameter", "default", "allowed", "meaning"))
        else:
            out.print("    " + escape(", ".join(one.parameters)), style="dim", highlight=False)
    if not workplace().is_checkout:
        say(f"These are the package's notebooks, and yours in ./notebooks. {MORE_IN_A_CHECKOUT}")


# Running


def start(runs: Runs, quietly: bool, **options: Any) -> subprocess.Popen[bytes]:
    try:
        return runs.start(quietly=quietly, **options)
    except CannotWrite as error:
        refuse(str(error))


def carry_out(runs: Runs, as_json: bool, quietly: bool = True, **options: Any) -> dict[str, str]:
    """Executes runs, shows how far they are, and reports; what became of each."""
    began, said = time.monotonic(), set[str]()
    runs.take_away_damaged(say, options.get("more", ()))
    if not options.get("more") and runs.current():
        report(runs, status := dict.fromkeys(runs.points, "skipped"), 0.0, as_json)
        return status
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    process = start(runs, quietly, **options)
    try:
        with Progress(*columns, console=err, disable=not (quietly and err.is_terminal)) as progress:
            bar = progress.add_task(runs.experiment.name, total=runs.missing())
            while process.poll() is None:
                time.sleep(0.2)
                finished = runs.finished()
                waiting = runs.missing() - sum(what == "failed" for what in finished.values())
                progress.update(bar, completed=len(finished), total=len(finished) + waiting)
                for run in finished.keys() - said if quietly else ():
                    say(f"{run}: {finished[run]}")
                said |= finished.keys()
        status = runs.ended()
    except KeyboardInterrupt:
        runs.interrupt()
        report(runs, runs.ended(), time.monotonic() - began, as_json)
        refuse("Interrupted. What is done is kept; the same command carries on.", INTERRUPTED)
    except Busy as error:
        refuse(str(error), BUSY)
    report(runs, status, time.monotonic() - began, as_json)
    if "lost" in status.values() and quietly:
        say(f"Snakemake's last words, from {runs.log}:")
        say("\n".join(runs.messages().splitlines()[-15:]))
    return status


MORE = {"allow_extra_args": True, "ignore_unknown_options": False}


@app.command(context_settings=MORE)
def run(
    context: typer.Context,
    name: Name,
    settings: Settings = [],  # noqa: B006
    time_limit: TimeLimit = None,
    as_json: AsJson = False,
) -> None:
    """Run a notebook once, with some parameters changed. What comes after `--` goes to Snakemake."""
    one = find(name)
    runs = Runs(workplace(), one, points_of(one, settings))
    status = carry_out(runs, as_json, quietly=False, cores=1, time_limit=time_limit, more=context.args)
    ((key, what),) = status.items()
    if what in {"failed", "lost"}:
        raise typer.Exit(FAILED)
    if not as_json:
        show_claims(claims_in(results([(key, read_executed(runs.executed(key)))], one)))
        say(f"The executed notebook: {runs.executed(key)}")


@app.command(context_settings=MORE)
def sweep(
    context: typer.Context,
    name: Name,
    settings: Settings = [],  # noqa: B006
    cores: Annotated[int | None, typer.Option(min=1, help="Runs at a time. Default: one per core.")] = None,
    executor: Annotated[
        str | None, typer.Option(help="Where to run: slurm, kubernetes, … Default: here.")
    ] = None,
    storage: Storage = None,
    time_limit: TimeLimit = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would run.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a notebook for all combinations of values, such as -p seed=0:10 -p latents=2,8,32.

    0:10 means 0, 1, …, 9. What comes after `--` goes to Snakemake.
    """
    one = find(name)
    check_where(storage, executor)
    runs = Runs(workplace(), one, points_of(one, settings, several=True), storage)
    options: dict[str, Any] = {"cores": cores, "executor": executor, "time_limit": time_limit}
    if dry_run:
        raise typer.Exit(start(runs, False, **options, more=["--dry-run", *context.args]).wait())
    status = carry_out(runs, as_json, **options, more=context.args)
    if not as_json:
        err.print(f"`vae-lab results {name}` has the numbers.", markup=False)
    if {"failed", "lost"} & set(status.values()):
        raise typer.Exit(FAILED)


# Results


@app.command("results")
def show_results(
    name: Name,
    csv: Annotated[Path | None, typer.Option(help="Write a CSV file.")] = None,
    parquet: Annotated[Path | None, typer.Option(help="Write a Parquet file.")] = None,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """All runs of a notebook as one table: parameters, claims, numbers of the text, provenance."""
    one = find(name)
    check_where(storage)
    try:
        table = results(stored(workplace().root, name, say, storage), one)
    except CannotRead as error:
        refuse(str(error))
    if table.empty:
        refuse(f"{name} has no runs yet; `vae-lab run {name}` makes one.", FAILED)
    try:
        for path, write in ((csv, as_csv), (parquet, as_parquet)):
            if path:
                write_whole(path, write(table))
    except OSError as error:
        refuse(f"{path} cannot be written: {error.strerror or error}")
    if as_json:
        print(json_of(table))
    elif not csv and not parquet:
        changing = [p for p in map(column, one.parameters) if table[p].astype(str).nunique() > 1]
        table["run"] = table["run"].str.removeprefix(f"{name}--")
        part = table.sort_values(
            changing,
            kind="stable",
            key=lambda cells: cells if cells.dtype.kind in "biuf" else cells.astype(str),
        )
        part = part[[*changing, "run", "name", "value", "holds"]]
        rows = part.astype(object).where(part.notna(), "").to_numpy()
        out.print(as_table(rows, *part.columns))
    if table["code"].nunique() > 1:
        err.print(
            "These runs come from different code: see the column `code`. A sweep brings old ones up to date."
        )


@app.command()
def claims(name: OptionalName = None, as_json: AsJson = False) -> None:
    """The claims of the book, or of all runs of a notebook. Exit code 1 if one does not hold."""
    if name is not None:
        table = claims_in(results(stored(workplace().root, name, say), find(name)))
    else:
        import pandas as pd

        needs_checkout("The claims of the book", "`vae-lab claims NAME` shows those of your runs.")
        book = workplace().root / "build/book/claims.json"
        try:
            table = pd.DataFrame(read_claims(book) if book.exists() else [])
        except Damaged as damage:
            refuse(f"{damage}. To collect them again: make book", FAILED)
        table = table.rename(columns={"page": "run", "sentence": "name"})
    if table.empty:
        refuse("Nothing has run yet. To run it: " + (f"vae-lab run {name}" if name else "make book"), FAILED)
    if as_json:
        print(json_of(table))
    else:
        show_claims(table)
    raise typer.Exit(0 if table["holds"].all() else FAILED)


# Your own notebooks


@app.command()
def fork(
    name: Name,
    new: Annotated[str, typer.Argument(metavar="NEW", help="The name of your notebook.")],
    settings: Settings = [],  # noqa: B006
    book: Annotated[bool, typer.Option("--book", help="Also make it a chapter of the book.")] = False,
) -> None:
    """A notebook of your own, NEW, which starts as NAME with other defaults."""
    one, place = find(name), workplace()
    root = place.root
    (defaults,) = points_of(one, settings)
    if fault := fault_in_name(new, place.notebooks()):
        refuse(f"{new[:MOST_LETTERS] or repr(new)}: {fault}")
    if book:
        needs_checkout("A chapter of the book", f"Without --book, {new} is a notebook that you can run.")
    try:
        files = listed({p: (root / p).read_text("utf-8") for p in LISTS if book}, name, new, defaults)
        # The notebook comes last: without it, the same command may be given again.
        files[f"notebooks/{new}.ipynb"] = text_of_fork(one, new, defaults, root)
        (root / "notebooks").mkdir(exist_ok=True)
        write_all({root / path: text for path, text in files.items()})
    except (CannotList, NotAnExperiment) as error:
        refuse(str(error))
    except OSError as error:
        refuse(f"{new} is not made: {error.filename or root} cannot be read or written: {error.strerror}")
    err.print(f"notebooks/{new}.ipynb is yours: edit it, and run it by `vae-lab run {new}`.", markup=False)
    if book:
        err.print("It is a chapter of the book now: `make book`.", markup=False)


@app.command()
def clean(
    name: OptionalName = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete runs and what belongs to them. The book stays; `make clean` deletes it too."""
    root = workplace().root
    # Chosen from what is there, and not by the path that a name would make: nothing else is ever deleted.
    folders = [folder for folder in folders_of_runs(root) if name in (None, folder.name)]
    if name is not None and not folders:
        refuse(f"There are no runs of {name} in {root / RUNS}.")
    count = sum(len(list(folder.glob("*/*.ipynb"))) for folder in folders)
    if not folders:
        err.print("There are no runs.")
        return
    if not yes and not typer.confirm(f"Delete {count} runs of {', '.join(f.name for f in folders)}?"):
        raise typer.Exit(REFUSED)
    for folder in folders:
        try:
            with lock_of(root, folder.name).acquire(timeout=0):
                delete_runs(folder)
        except Timeout:
            refuse(f"Runs of {folder.name} go on in this folder. Wait until they have ended.", BUSY)
        except OSError as error:
            refuse(f"{folder} cannot be deleted: {error.strerror}")
    err.print(f"{count} runs deleted.")


def main() -> None:
    """The command `vae-lab`."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    survive_any_locale()
    try:
        app()
    except OSError as error:  # of the terminal's, or of a folder that has gone; the commands see to their own
        sys.exit(f"vae-lab: {error}")


if __name__ == "__main__":
    main()
