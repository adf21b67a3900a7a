"""The workflow in a small checkout of its own, with notebooks that wait, fail and die on demand."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
import yaml
from checkout import PATIENCE, ROOT, VALUE, WAIT, Checkout, eventually
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from vae_lab.records import CLAIM_MIME
from vae_workflow.claims import check_claims


def test_runs_what_changed_and_nothing_else(checkout: Checkout) -> None:
    checkout.notebooks(one=VALUE, two=VALUE)
    index = checkout.folder / "book/_build/html/index.html"
    run = checkout.run()
    assert run.returncode == 0, run.stderr
    assert {"one: cell 1 of 2", "one: cell 2 of 2", "two: cell 2 of 2"} <= set(run.stderr.splitlines())
    assert checkout.executed() == {"one", "two"}
    assert "Welcome" in index.read_text()
    built = index.stat().st_mtime_ns

    start = time.monotonic()
    assert checkout.succeeds() == set()
    assert time.monotonic() - start < 30

    for path in checkout.folder.rglob("*"):
        if not {"_build", "build", ".snakemake"} & set(path.parts):
            path.touch()
    assert checkout.succeeds() == set()
    assert index.stat().st_mtime_ns == built, "touching a file built the book again"

    printed = index.parent / "book.pdf"
    printed.touch()
    checkout.write("book/index.md", "# Farewell\n")
    assert checkout.succeeds() == set()
    assert "Farewell" in index.read_text()
    assert not printed.exists(), "that is of the former book"
    assert (index.parent / "chapters/one.html").exists()

    checkout.configure(one={"seed": 3}, two=None)
    assert checkout.succeeds() == {"one"}
    assert checkout.outputs("one")[-1] != checkout.outputs("two")[-1]

    checkout.write("vae_lab/__init__.py", "OFFSET = 2\n")
    assert checkout.succeeds() == {"one", "two"}
    page = (checkout.folder / "book/_build/html/chapters/two.html").read_text()
    assert checkout.outputs("two")[-1][0].text.strip() in page


def test_parameters_keep_their_types(checkout: Checkout) -> None:
    text = 'it\'s "quoted" {braces} $HOME'
    values = {"seed": 1, "rate": 1e-3, "name": text, "flag": True, "some": [1, 2.5]}
    checkout.notebooks(one="print([seed, rate, name, flag, some])")
    checkout.configure(one=values)
    checkout.succeeds("notebooks")
    assert checkout.outputs("one")[-1][0].text.strip() == repr(list(values.values()))


def test_a_killed_run_is_carried_on(checkout: Checkout) -> None:
    checkout.notebooks(one=VALUE, two=f"{WAIT}\n{VALUE}")
    with checkout.started("notebooks", "--cores", "2") as run:
        orphans = checkout.waiting()
        eventually(lambda: checkout.executed() == {"one"})
        eventually(lambda: not list((checkout.folder / "build/book/running").glob("one.*")))
        eventually(lambda: checkout.incomplete() == 1)
        run.send_signal(signal.SIGKILL)  # to Snakemake alone: its children go on
    one = checkout.folder / "build/book/notebooks/one.ipynb"
    done = one.stat()
    assert checkout.executed() == {"one"}

    checkout.open_gate()  # the orphans may finish now, at the same time as the next run
    assert checkout.succeeds("notebooks") == {"two"}
    now = one.stat()
    assert (now.st_ino, now.st_mtime_ns) == (done.st_ino, done.st_mtime_ns)
    _, alive = psutil.wait_procs(orphans, timeout=10)
    assert not alive, "the killed run left processes behind"
    assert not list((checkout.folder / "build/book/running").iterdir())

    checkout.configure(name="undisturbed", one=None, two=None)
    assert checkout.succeeds("notebooks", "--configfile", "config/undisturbed.yaml") == {"one", "two"}
    for name in ("one", "two"):
        assert checkout.outputs(name) == checkout.outputs(name, build="undisturbed")


def test_orphans_stop_by_themselves(checkout: Checkout) -> None:
    checkout.notebooks(one=WAIT)
    with checkout.started("notebooks") as run:
        orphans = checkout.waiting()
        run.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(orphans, timeout=10)
    assert not alive
    assert checkout.executed() == set()


def test_failing_notebooks_are_kept_and_named_and_the_others_run(checkout: Checkout) -> None:
    checkout.notebooks(
        bad="raise ValueError('not this way\\nbut that way')",
        dead="import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
        good=VALUE,
        lost="import os, signal, time\nos.kill(os.getppid(), signal.SIGKILL)\ntime.sleep(60)",
    )
    run = checkout.run()
    assert run.returncode != 0
    assert checkout.executed() == {"good"}
    _, summary = run.stderr.split("These notebooks failed")
    assert "bad: in cell 2, ValueError: not this way\n        but that way" in summary
    assert "kept at build/book/failed/bad.ipynb" in summary
    assert "dead: in cell 2, DeadKernelError: the kernel died, as it does when memory runs out" in summary
    assert "kept at build/book/failed/dead.ipynb" in summary
    assert "lost: interrupted, killed, out of memory, or not asked for" in summary
    assert "good" not in summary
    assert not (checkout.folder / "book/_build/html/index.html").exists()
    kept = json.loads((checkout.folder / "build/book/failed/bad.ipynb").read_text())
    assert any(
        output["output_type"] == "error" for cell in kept["cells"] for output in cell.get("outputs", [])
    )

    checkout.notebooks(bad=VALUE, dead=VALUE, good=VALUE, lost=VALUE)
    assert checkout.succeeds("notebooks") == {"bad", "dead", "lost"}
    assert not list((checkout.folder / "build/book/failed").iterdir())


def test_of_two_runs_at_once_one_must_wait(checkout: Checkout) -> None:
    checkout.notebooks(one=f"{WAIT}\n{VALUE}")
    with checkout.started("notebooks") as first:
        checkout.waiting()
        second = checkout.run("notebooks")
        assert second.returncode != 0
        assert "Another run of 'book' is at work in this checkout. Wait until it has ended" in second.stderr
        checkout.open_gate()
        _, stderr = first.communicate(timeout=PATIENCE)
    assert first.returncode == 0, stderr
    assert checkout.succeeds("notebooks") == set()


def test_code_that_changes_while_a_notebook_runs_is_not_taken_for_what_ran(checkout: Checkout) -> None:
    checkout.notebooks(one=f"{VALUE}\n{WAIT}")
    with checkout.started("notebooks") as run:
        checkout.waiting()
        checkout.write("vae_lab/__init__.py", "OFFSET = 2\n")
        checkout.open_gate()
        _, stderr = run.communicate(timeout=PATIENCE)
    assert run.returncode != 0
    assert "vae_lab/__init__.py changed while this ran; run again" in stderr
    assert checkout.succeeds("notebooks") == {"one"}


def test_a_book_with_a_warning_is_no_book(checkout: Checkout) -> None:
    checkout.notebooks(one=VALUE)
    index = checkout.folder / "book/_build/html/index.html"
    page = (checkout.folder / "book/index.md").read_text()
    checkout.write("book/index.md", f"{page}\nSee {{ref}}`nowhere` and {{doc}}`nothing`.\n")
    for _ in range(2):  # a second try must not pass because nothing changed since the first
        run = checkout.run()
        assert run.returncode != 0
        assert "nowhere" in run.stderr
        assert "nothing" in run.stderr
        assert "the book could not be built" in run.stderr
        assert not index.exists()
    checkout.write("book/index.md", page)
    assert checkout.succeeds() == set()
    assert index.exists()


CLAIM = """from IPython.display import display
claim = {"sentence": "Seeds are small.", "value": f"{seed}", "holds": seed < 5, "evidence": "one seed"}
display({"text/plain": "a claim", "application/vnd.vae-lab.claim+json": claim}, raw=True)"""


def test_a_claim_that_does_not_hold_is_published_and_fails_the_run(
    checkout: Checkout, capsys: pytest.CaptureFixture[str]
) -> None:
    """The book shows it, the command fails and says which; a known one, or a small run, passes."""
    checkout.notebooks(one=CLAIM, two=CLAIM)
    collected = checkout.folder / "build/book/claims.json"
    assert checkout.succeeds() == {"one", "two"}
    assert [claim["holds"] for claim in json.loads(collected.read_text())] == [True, True]

    checkout.configure(one={"seed": 7}, two=None)
    for _ in range(2):  # a second try must not pass because nothing changed since the first
        run = checkout.run()
        assert run.returncode != 0
        assert "these do not hold:\n  one: Seeds are small. 7 (one seed)\n" in run.stderr
        assert "the book is built (book/_build/html/index.html), with the faults named above" in run.stderr
        assert not collected.exists()
        assert (checkout.folder / "book/_build/html/chapters/one.html").exists()

    known = {"one": ["Seeds are small."]}
    checkout.configure(one={"seed": 7}, two=None, settings={"known_failures": known})
    assert checkout.succeeds() == set()
    assert [claim["holds"] for claim in json.loads(collected.read_text())] == [False, True]

    chapters = sorted((checkout.folder / "build/book/notebooks").iterdir())
    known["two"] = ["Seeds are large."]
    assert check_claims(collected, "error", known, chapters) == 1
    assert "two makes no such claim: Seeds are large." in capsys.readouterr().err
    assert check_claims(collected, "shown", {}, chapters) == 0


def test_a_book_is_not_built_from_results_of_other_sources(checkout: Checkout) -> None:
    """An executed notebook records what it came from; one from elsewhere is refused."""
    checkout.notebooks(one=VALUE)
    checkout.succeeds()
    executed = checkout.folder / "build/book/notebooks/one.ipynb"
    record = json.loads(executed.read_text())["metadata"]["sources"]
    assert record["parameters"] == {}
    assert record["lock"] == hashlib.sha256(b"").hexdigest()
    content = json.loads(executed.read_text())
    content["metadata"]["sources"] |= {
        "notebook": "0",
        "package": "0",
        "lock": "0",
        "parameters": {"seed": 9},
    }
    executed.write_text(json.dumps(content))
    checkout.write("book/index.md", "# Farewell\n")
    run = checkout.run()
    assert run.returncode != 0
    found = "build/book/notebooks/one.ipynb (notebook, package, lock, parameters)"
    assert f"not those of the present sources: {found}" in run.stderr
    executed.unlink()
    assert checkout.succeeds() == {"one"}


def test_results_that_changed_are_listed(tmp_path: Path) -> None:
    """Claims and numbers of the text: changed, gone and new ones, and none that stayed."""

    def write(folder: str, **values: str) -> None:
        claim = {
            "sentence": "p(x|z) is large.",
            "value": values["p"],
            "holds": values["p"] > "2",
            "evidence": "-",
        }
        outputs = [new_output("display_data", {"text/plain": "", CLAIM_MIME: claim})]
        for name, value in values.items():
            data = {"application/papermill.record/text/plain": value}
            outputs.append(new_output("display_data", data, metadata={"scrapbook": {"name": name}}))
        (tmp_path / folder).mkdir()
        notebook = new_notebook(cells=[new_code_cell("", outputs=outputs)])
        nbformat.write(notebook, tmp_path / folder / "one.ipynb")

    def changes(before: str, after: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            "vae_workflow.changes",
            str(tmp_path / before),
            str(tmp_path / after),
        ]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    write("old", p="1", same="0.123456789", gone="'text'")
    write("new", p="3", same="0.123456788", come="2")
    assert changes("old", "old").stdout == "0 of 4 results changed.\n"
    assert changes("old", "new").stdout.splitlines() == [
        "4 of 5 results changed.",
        "",
        "| page | result | before | after |",
        "|---|---|---|---|",
        r"| one | p(x\|z) is large. | 1 (does not hold) | 3 (holds) |",
        "| one | `p` | 1 | 3 |",
        "| one | `gone` | text | – |",
        "| one | `come` | – | 2 |",
    ]
    refused = changes("old", "nowhere")
    assert refused.returncode != 0
    assert "nowhere holds no executed notebooks" in refused.stderr


LABELLED = """from matplotlib import pyplot
pyplot.plot([seed, 1]);"""


FURTHER = ("--configfile", "config/book.yaml", "config/full.yaml")


def test_further_pages_join_where_their_data_are(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    """One notebook, two pages of one book: the labels of figures and equations do not clash."""
    checkout.notebooks(one=LABELLED)
    path = checkout.folder / "notebooks/one.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].source = 'seed: int = 0\ndataset: str = "digits"'
    figure = {"name": "fig-one", "caption": "A line."}
    notebook.cells[2].metadata["mystnb"] = {"figure": figure, "image": {"alt": "A line."}}
    text = "See {numref}`fig-one` and {eq}`eq-one`, not fig-one-more.\n\n$$\n1 = 1\n$$ (eq-one)"
    notebook.cells.append(new_markdown_cell(text, id="text"))
    nbformat.write(notebook, path)
    pages = {"notebooks": {"one--mnist": {"dataset": "mnist", "seed": 7}}}
    checkout.write("config/full.yaml", yaml.dump(pages))
    monkeypatch.setenv("VAE_LAB_DATA", str(checkout.folder / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(checkout.folder / "cache"))

    run = checkout.run(*FURTHER)
    assert run.returncode == 0, run.stderr
    assert "one--mnist is left out: this machine has no mnist" in run.stderr
    assert checkout.executed() == {"one"}
    html = checkout.folder / "book/_build/html/chapters"
    assert {page.stem for page in html.glob("*.html")} == {"one"}

    checkout.write("data/mnist/images", "an empty folder would not be data")
    run = checkout.run(*FURTHER)
    assert run.returncode == 0, run.stderr
    assert checkout.executed() == {"one", "one--mnist"}
    assert "one--mnist: done in" in run.stderr, "a page is called by its own name"
    first, further = ((html / f"{name}.html").read_text() for name in ("one", "one--mnist"))
    assert 'id="fig-one"' in first and 'id="eq-one' not in further
    for text in ('id="fig-one-mnist"', 'href="#fig-one-mnist"', "Chapter one: mnist</h1>", "eq-one-mnist"):
        found = re.sub(r"<a class=.headerlink.*?</a>", "", further)
        assert text in found, text
        assert text not in first, text
    assert "fig-one-more" in further, "only its own labels change"
    assert 'href="one--mnist.html"' in first, "it is in the table of contents"

    assert checkout.succeeds() == set(), "without further pages nothing runs again"
    assert {page.stem for page in html.glob("*.html")} >= {"one"}
    assert 'href="one--mnist.html"' not in (html / "one.html").read_text()


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
def test_interrupting_a_run_stops_it(checkout: Checkout) -> None:
    checkout.notebooks(one=WAIT)
    command = [sys.executable, "-m", "snakemake", "notebooks"]
    run = subprocess.Popen(command, cwd=checkout.folder, stderr=subprocess.DEVNULL, start_new_session=True)
    processes = checkout.waiting()
    os.killpg(run.pid, signal.SIGINT)  # Ctrl-C
    assert run.wait(timeout=PATIENCE) != 0
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert not alive
    assert checkout.executed() == set()
    checkout.open_gate()
    assert checkout.succeeds("notebooks") == {"one"}
