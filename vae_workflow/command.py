"""The command `vae-lab`, which says what it needs where its packages are not installed."""

import sys
from importlib.util import find_spec

NEEDED = ("typer", "rich", "nbformat", "papermill", "snakemake", "filelock", "grimp", "yaml")


def main() -> None:
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        sys.exit(
            f"vae-lab runs notebooks, and that needs packages that are not installed ({', '.join(missing)}). "
            "To install them: pip install 'vae-lab[lab]', or '.[lab]' in a checkout."
        )
    from .cli import main as start

    start()
