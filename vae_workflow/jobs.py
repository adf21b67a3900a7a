"""The jobs of the Snakefile: execute a notebook, build the book, look at its claims, print it, compare runs.

All promise that

- they stop when the Snakemake that started them stops, even by SIGKILL, so that a new run is alone;
- what lies at their destination is complete and came from sources that did not change meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from importlib import import_module
from pathlib import Path

# The module and the function for each job.
DONE_BY = {
    "notebook": ("execution", "execute"),
    "book": ("pages", "build_book"),
    "claims": ("claims", "check_claims"),
    "table": ("replication", "collect"),
    "pdf": ("pdf", "print_pdf"),
}


def stop_with(parent: int) -> None:
    """Ends this process within about a second of the end of its parent. Jupyter kernels do so anyway, so
    the kernel of a notebook follows."""
    from ipykernel.parentpoller import ParentPollerUnix

    if os.getppid() != parent:
        sys.exit("The Snakemake that started this job has ended.")
    ParentPollerUnix(parent_pid=parent).start()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    jobs = parser.add_subparsers(dest="job", required=True)
    job = jobs.add_parser("notebook", help="execute a notebook")
    job.add_argument("notebook", type=Path)
    job.add_argument("output", type=Path)
    job.add_argument("failed", type=Path, help="where a failing notebook is kept")
    job.add_argument("parameters", type=json.loads, help="a JSON object")
    job.add_argument("--limit", type=int, default=0, help="seconds, after which it is stopped")
    job = jobs.add_parser("book", help="build the book")
    job.add_argument("book", type=Path)
    job.add_argument("staged", type=Path)
    job.add_argument("output", type=Path)
    job.add_argument("parameters", type=json.loads, help="a JSON object: those of each chapter")
    job.add_argument("chapters", type=Path, nargs="+")
    job.add_argument("--no-solutions", dest="solutions", action="store_false", help="of the exercises")
    job = jobs.add_parser("claims", help="collect the claims, and see whether they hold")
    job.add_argument("output", type=Path)
    job.add_argument("failing", choices=["error", "shown"], help="what a claim is that does not hold")
    job.add_argument(
        "known", type=json.loads, help="a JSON object: sentences of each page that are not errors"
    )
    job.add_argument("chapters", type=Path, nargs="+")
    job = jobs.add_parser("table", help="collect the claims of runs of the chapters in a table")
    job.add_argument("output", type=Path)
    job.add_argument("runs", type=Path, nargs="+")
    job = jobs.add_parser("pdf", help="print the book")
    job.add_argument("html", type=Path, help="folder of the built book")
    for job in jobs.choices.values():
        job.add_argument("--parent", type=int, required=True, help="the process to live and die with")
    args = vars(parser.parse_args())
    stop_with(args.pop("parent"))
    # Loaded when asked for: printing needs packages that executing does not.
    module, function = DONE_BY[args.pop("job")]
    return int(getattr(import_module(f".{module}", __package__), function)(**args))


if __name__ == "__main__":
    # As safe as being killed, and unlike an exception it cannot get stuck in what waits for a kernel to end.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    sys.exit(main())
