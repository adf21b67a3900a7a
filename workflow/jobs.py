"""The jobs of the Snakefile: execute a notebook, build the book, look at its claims, print it.

All promise that

- they stop when the Snakemake that started them stops, even by SIGKILL, so that a new run is alone;
- what lies at their destination is complete and came from sources that did not change meanwhile.
"""

import argparse
import errno
import hashlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import nbformat
import yaml

# As in vae_lab.data and vae_lab.notebook, which are slow to load; a test compares them.
DATA_FILES, DATA_SYSTEM = ("fashion-mnist", "mnist"), "/usr/share/datasets"
CLAIM_MIME = "application/vnd.vae-lab.claim+json"
LOCK = Path("requirements.lock")
PDF = "book.pdf"
NO_PLACE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}


class SourcesChanged(Exception):
    """A source file was edited while a job used it."""


def stop_with(parent: int) -> None:
    """Ends this process within about a second of the end of its parent. Jupyter kernels do so anyway, so
    the kernel of a notebook follows."""
    from ipykernel.parentpoller import ParentPollerUnix

    if os.getppid() != parent:
        sys.exit("The Snakemake that started this job has ended.")
    ParentPollerUnix(parent_pid=parent).start()


def pages(book: Path) -> Iterator[Path]:
    """The source files of the book: all that is neither built nor hidden."""
    for path in book.rglob("*"):
        parts = path.relative_to(book).parts
        if path.is_file() and not any(part in {"_build", "__pycache__"} or part[0] == "." for part in parts):
            yield path


@contextmanager
def unchanged(*sources: Path) -> Iterator[None]:
    """Raises `SourcesChanged` if a file changes while the block runs: Snakemake takes the state at the
    end of a job for what the job has seen."""
    before = {path: hashlib.sha256(path.read_bytes()).digest() for path in sources}
    yield
    changed = [
        str(path)
        for path, digest in before.items()
        if not path.exists() or hashlib.sha256(path.read_bytes()).digest() != digest
    ]
    if changed:
        raise SourcesChanged(f"{', '.join(changed)} changed while this ran; run again")


def absent(parameters: Mapping[str, Any]) -> list[str]:
    """The data sets among the values of `parameters` that are files, and not on this machine: asked without
    loading the package."""
    wanted = [name for name in DATA_FILES if name in parameters.values()]
    if not wanted:
        return []
    import pooch

    folders = [os.environ.get("VAE_LAB_DATA"), DATA_SYSTEM, pooch.os_cache("vae_lab")]
    return [name for name in wanted if not any((Path(f) / name).is_dir() for f in folders if f)]


def sources(notebook: Path, package: Path, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What the results of a notebook follow from: its parameters, and the SHA-256 of all that it uses."""
    code = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        code.update(f"{path.relative_to(package).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return {
        "notebook": hashlib.sha256(notebook.read_bytes()).hexdigest(),
        "package": code.hexdigest(),
        "lock": hashlib.sha256(LOCK.read_bytes()).hexdigest(),
        "parameters": dict(parameters),
    }


class Narrator:
    """Reports a notebook's progress in whole lines, readable when several notebooks run at once."""

    def __init__(self, name: str, every: float = 5.0) -> None:
        self.name, self.every, self.spoken = name, every, time.monotonic()
        self.cell = self.cells = 0

    def say(self, text: str) -> None:
        sys.stderr.write(f"{self.name}: {text}\n")
        sys.stderr.flush()

    def on_cell_execute(self, cell: Mapping[str, Any], cell_index: int) -> None:
        self.cell += 1
        self.say(f"cell {self.cell} of {self.cells}")

    def write(self, text: str) -> None:
        """Takes what the notebook prints and passes on its newest line now and then."""
        lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text).strip())
        if lines[-1] and time.monotonic() - self.spoken >= self.every:
            self.spoken = time.monotonic()
            self.say(f"    {lines[-1][:150]}")

    def flush(self) -> None: ...


def execute(
    notebook: Path, package: Path, output: Path, failed: Path, parameters: dict[str, Any], limit: int = 0
) -> int:
    """Executes `notebook` to `output`, or `failed`; stopped after `limit` seconds, if not 0."""
    try:
        return _execute(notebook, package, output, failed, parameters, limit)
    except OSError as error:
        if error.errno not in NO_PLACE:
            raise
        name = output.stem
        (_running(output) / f"{name}.{os.getpid()}.ipynb").unlink(missing_ok=True)
        sys.stderr.write(
            f"{name}: failed: its results cannot be written to {output.parent}: {error.strerror}\n"
        )
        return 1


def _running(output: Path) -> Path:
    """Where a notebook lies while it runs: papermill saves it after every cell, so it is not complete."""
    return output.parent.parent / "running"


def _execute(
    notebook: Path, package: Path, output: Path, failed: Path, parameters: dict[str, Any], limit: int
) -> int:
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    started, narrator = time.monotonic(), Narrator(output.stem)
    running = _running(output)
    for folder in (running, output.parent, failed.parent):
        folder.mkdir(parents=True, exist_ok=True)
    for left in (failed, *running.glob(f"{output.stem}.*.ipynb")):
        left.unlink(missing_ok=True)
    # In a folder with a short name: the whole may have a hundred letters.
    sockets = str(Path(tempfile.gettempdir()) / f"vae-lab-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    private = running / f"{output.stem}.{os.getpid()}.ipynb"

    try:
        with unchanged(notebook, LOCK, *package.rglob("*.py")):
            used = sources(notebook, package, parameters)
            cells = nbformat.read(notebook, as_version=4).cells
            narrator.cells = sum(c.cell_type == "code" and bool(c.source.strip()) for c in cells)
            narrator.cells += bool(parameters)  # papermill adds a cell with them
            papermill.execute_notebook(
                notebook,
                private,
                parameters,
                progress_bar=False,
                on_cell_execute=narrator.on_cell_execute,
                stdout_file=narrator,
                stderr_file=narrator,
                extra_arguments=["--log-level=CRITICAL"],  # the kernel's own remarks
                shutdown_kernel="immediate",  # nothing is left; an orderly end takes seconds
                # For nbclient: sockets that are files, since kernels that start at once may choose the same
                # port, and the time that is left for a cell.
                config=Config({"ConnectionFileMixin": {"transport": "ipc", "ip": sockets}}),
                timeout_func=lambda _: max(1, limit + started - time.monotonic()) if limit else None,
            )
    except Exception as error:
        if isinstance(error, OSError) and error.errno in NO_PLACE:
            raise
        failure = {"cell": narrator.cell, "error": type(error).__name__, "message": str(error)}
        if isinstance(error, PapermillExecutionError):
            failure |= {"error": error.ename, "message": error.evalue}
        elif isinstance(error, CellTimeoutError):
            failure |= {"error": "TimeLimit", "message": f"stopped at the time limit of {limit} s"}
        elif isinstance(error, DeadKernelError):
            failure["message"] = "the kernel died, as it does when memory runs out"
        target = failed
    else:
        failure, target = {}, output

    if not private.exists():  # failed before the first cell
        shutil.copyfile(notebook, private)
    executed = nbformat.read(private, as_version=4)
    executed.metadata.setdefault("papermill", {})["output_path"] = str(target)
    if failure:
        executed.metadata["failure"] = failure
    else:
        executed.metadata["sources"] = used
    nbformat.write(executed, private)
    os.replace(private, target)

    if failure:
        narrator.say(f"failed: {describe(failure)}")
        return 1
    narrator.say(f"done in {time.monotonic() - started:.0f} s")
    return 0


def describe(failure: Mapping[str, Any]) -> str:
    place = f"in cell {failure['cell']}, " if failure["cell"] else ""
    message = str(failure["message"]).strip().replace("\n", "\n        ")
    return f"{place}{failure['error']}: {message}"


def summary(notebooks: Mapping[str, tuple[str, str]], index: str) -> str:
    """What went wrong, from where each notebook's (executed, failed) files lie, and the book's first page."""
    lines = []
    for name, (executed, failed) in notebooks.items():
        if Path(executed).exists():
            continue
        if Path(failed).exists():
            failure = json.loads(Path(failed).read_text())["metadata"]["failure"]
            lines += [f"  {name}: {describe(failure)}", f"      kept at {failed}"]
        else:
            lines += [f"  {name}: interrupted, killed, out of memory, or not asked for"]
    if not lines and Path(index).exists():
        return f"\nAll notebooks ran and the book is built ({index}), with the faults named above."
    if not lines:
        return "\nAll notebooks ran; the book could not be built, for the reasons above."
    return "\n".join(["", "These notebooks failed (the others are done):", *lines])


def build_book(
    book: Path,
    package: Path,
    staged: Path,
    output: Path,
    parameters: Mapping[str, Mapping[str, Any]],
    chapters: list[Path],
) -> int:
    """Builds the book from `book`, the executed `chapters` and, for the pages made from it, `package`; any
    warning is an error. So is a chapter that was not executed from the present sources and `parameters`."""
    stale = []
    for chapter in chapters:
        notebook = Path("notebooks", f"{chapter.stem.partition('--')[0]}.ipynb")
        record = json.loads(chapter.read_text())["metadata"].get("sources", {})
        now = sources(notebook, package, parameters[chapter.stem])
        changed = ", ".join(key for key in now if now[key] != record.get(key))
        stale += [f"{chapter} ({changed})"] if changed else []
    if stale:
        sys.stderr.write(
            f"book: these results are not those of the present sources: {'; '.join(stale)}. "
            "Delete the files and run again.\n"
        )
        return 1

    built = output / "_build"
    unfinished, doctrees = built / ".unfinished", built / ".doctrees" / "environment.pickle"
    # Sphinx re-reads the pages that changed, and those that say they depend on the package when that changed.
    # It does not notice other changes (an extension, a static file, a page that is gone) nor that its last
    # run was cut short: then everything is built afresh.
    files = list(pages(book))
    others = {p for p in files if p.suffix != ".md"} | {p.parent for p in files} | {Path("requirements.lock")}
    last = doctrees.stat().st_mtime if doctrees.exists() else 0.0
    if unfinished.exists() or any(p.stat().st_mtime > last for p in others):
        shutil.rmtree(built, ignore_errors=True)
    built.mkdir(parents=True, exist_ok=True)
    unfinished.touch()

    if (built / "html" / PDF).exists():  # of the former book; and the pages lead to it
        shutil.rmtree(built / "html")

    contents = staged / "_toc.yml"
    former = contents.read_text() if contents.exists() else None
    shutil.rmtree(staged, ignore_errors=True)
    try:
        with unchanged(*pages(book), *package.rglob("*.py")):
            for page in pages(book):
                copy(page, staged / page.relative_to(book))
            for chapter in chapters:
                copy(chapter, staged / "chapters" / chapter.name)
                if "--" in chapter.stem:
                    set_apart(staged / "chapters" / chapter.name)
            add_to_contents(contents, [c.stem for c in chapters if "--" in c.stem])
            if contents.read_text() != former:  # pages that did not change show it, too
                shutil.rmtree(built / "html", ignore_errors=True)
                shutil.rmtree(built / ".doctrees", ignore_errors=True)
            sphinx(staged, output)
    except Exception as error:
        sys.stderr.write(f"book: {error}\n")
        return 1
    unfinished.unlink()
    sys.stderr.write(f"book: {built / 'html' / 'index.html'}\n")
    return 0


def check_claims(output: Path, failing: str, known: Mapping[str, list[str]], chapters: list[Path]) -> int:
    """Writes all claims of the executed `chapters` to `output`, and names those that do not hold.

    They are an error if `failing` is "error", unless `known` lists their sentence under their page; so is a
    sentence in `known` that its page does not claim.
    """
    claims = []
    for chapter in chapters:
        for cell in nbformat.read(chapter, as_version=4).cells:
            data = [o.data[CLAIM_MIME] for o in cell.get("outputs", []) if CLAIM_MIME in o.get("data", {})]
            claims += [{"page": chapter.stem, **claim} for claim in data]
    problems = [
        f"  {claim['page']}: {claim['sentence']} {claim['value']} ({claim['evidence']})"
        for claim in claims
        if failing == "error" and not claim["holds"]
        if claim["sentence"] not in known.get(claim["page"], [])
    ]
    for page, sentences in known.items():
        made = {claim["sentence"] for claim in claims if claim["page"] == page}
        problems += [
            f"  {page} makes no such claim: {text}" for text in sentences if made and text not in made
        ]
    if problems:
        sys.stderr.write("\n".join(["claims: these do not hold:", *problems, ""]))
        return 1
    private = output.with_name(f"{output.name}.{os.getpid()}")
    private.write_text(json.dumps(claims, indent=1, ensure_ascii=False) + "\n")
    os.replace(private, output)
    held = sum(claim["holds"] for claim in claims)
    sys.stderr.write(f"claims: {held} of {len(claims)} hold\n")
    return 0


def print_pdf(html: Path) -> int:
    """Prints the book in the folder `html` as a PDF there."""
    from workflow.browser import NoChromium
    from workflow.pdf import offer, print_book

    try:
        with unchanged(*html.rglob("*.html")):
            printed = print_book(html)
    except (NoChromium, SourcesChanged) as error:
        sys.stderr.write(f"pdf: {error}\n")
        return 1
    os.replace(printed, html / PDF)
    offer(html, PDF)
    sys.stderr.write(f"pdf: {html / PDF}\n")
    return 0


def copy(source: Path, target: Path) -> None:
    """Copies a file with its time of change, by which Sphinx knows what is new."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)


def set_apart(page: Path) -> None:
    """Gives the page NAME--VARIANT a title and labels unlike those of the page NAME of the same notebook."""
    times = page.stat()
    page.write_text(apart(page.read_text("utf-8"), page.stem.partition("--")[2]), "utf-8")
    os.utime(page, ns=(times.st_atime_ns, times.st_mtime_ns))


def apart(text: str, variant: str) -> str:
    """A notebook, as text, with `variant` in its title and in the labels of its figures and equations."""
    notebook = nbformat.reads(text, as_version=4)
    figures = [c.metadata.get("mystnb", {}).get("figure", {}).get("name") for c in notebook.cells]
    equations = [m for c in notebook.cells for m in re.findall(r"^\$\$ \((\S+)\)$", c.source, re.MULTILINE)]
    labels = "|".join(map(re.escape, filter(None, [*figures, *equations])))
    if labels:
        text = re.sub(rf"(?<![\w-])({labels})(?![\w-])", rf"\1-{variant}", text)
    notebook = nbformat.reads(text, as_version=4)
    title = next(c for c in notebook.cells if c.cell_type == "markdown")
    title.source = re.sub(r"^# .*", rf"\g<0>: {variant}", title.source)
    return str(nbformat.writes(notebook)) + "\n"


def add_to_contents(contents: Path, names: list[str]) -> None:
    """Lists further pages after the last part that has chapters."""
    if not names:
        return
    toc = yaml.safe_load(contents.read_text())
    further = {
        "caption": "On other data",
        "numbered": True,
        "chapters": [{"file": f"chapters/{name}"} for name in names],
    }
    if "parts" not in toc:
        toc["parts"] = [{"chapters": toc.pop("chapters")}]
    holds = [any(c["file"].startswith("chapters/") for c in part["chapters"]) for part in toc["parts"]]
    toc["parts"].insert(len(holds) - holds[::-1].index(True), further)
    contents.write_text(yaml.safe_dump(toc, sort_keys=False))


def sphinx(source: Path, output: Path) -> None:
    """Runs jupyter-book in this process, showing its warnings only, and raises if there were any."""
    from jupyter_book.cli.main import main as jupyter_book

    options = ["--path-output", str(output), "-W", "-n", "--keep-going", "--quiet"]
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        try:
            jupyter_book(["build", str(source), *options], standalone_mode=False)
        except SystemExit as stop:
            if stop.code:
                raise RuntimeError("there were warnings (above), and each counts as an error") from None


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    jobs = parser.add_subparsers(dest="job", required=True)
    job = jobs.add_parser("notebook", help="execute a notebook")
    job.add_argument("notebook", type=Path)
    job.add_argument("package", type=Path, help="folder of the code that the notebook uses")
    job.add_argument("output", type=Path)
    job.add_argument("failed", type=Path, help="where a failing notebook is kept")
    job.add_argument("parameters", type=json.loads, help="a JSON object")
    job.add_argument("--limit", type=int, default=0, help="seconds, after which it is stopped")
    job = jobs.add_parser("book", help="build the book")
    job.add_argument("book", type=Path)
    job.add_argument("package", type=Path, help="folder of the code that the book describes")
    job.add_argument("staged", type=Path)
    job.add_argument("output", type=Path)
    job.add_argument("parameters", type=json.loads, help="a JSON object: those of each chapter")
    job.add_argument("chapters", type=Path, nargs="+")
    job = jobs.add_parser("claims", help="collect the claims, and see whether they hold")
    job.add_argument("output", type=Path)
    job.add_argument("failing", choices=["error", "shown"], help="what a claim is that does not hold")
    job.add_argument("known", type=json.loads, help="a JSON object: sentences of each page that are no error")
    job.add_argument("chapters", type=Path, nargs="+")
    job = jobs.add_parser("pdf", help="print the book")
    job.add_argument("html", type=Path, help="folder of the built book")
    for job in jobs.choices.values():
        job.add_argument("--parent", type=int, required=True, help="the process to live and die with")
    args = vars(parser.parse_args())
    stop_with(args.pop("parent"))
    run = {"notebook": execute, "book": build_book, "claims": check_claims, "pdf": print_pdf}
    return run[args.pop("job")](**args)


if __name__ == "__main__":
    # As safe as being killed, and unlike an exception it cannot get stuck in what waits for a kernel to end.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    sys.exit(main())
