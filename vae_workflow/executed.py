"""Executed notebooks as they lie on a disk: read whole, or called damaged, and then as good as absent."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, NotRequired

from pydantic import StrictBool, StrictFloat, StrictInt, StrictStr, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict  # pydantic asks for this one before Python 3.12

from vae_lab.records import CLAIM_MIME, PROVENANCE_MIME, glued, recorded


class Damaged(ValueError):
    """A file of this workflow that cannot be read; the message names it, and says why."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{path} is damaged, and counts as absent ({reason})")


@with_config(extra="allow")
class Criterion(TypedDict):
    what: StrictStr
    holds: StrictBool
    kind: StrictStr
    because: StrictStr
    count: StrictInt
    value: StrictFloat | None
    low: StrictFloat | None
    high: StrictFloat | None
    bounds: tuple[StrictFloat | None, StrictFloat | None]
    chance: StrictFloat | None


@with_config(extra="allow")
class Claim(TypedDict):
    sentence: StrictStr
    value: StrictStr | StrictFloat | StrictBool | None
    holds: StrictBool
    evidence: StrictStr
    criteria: NotRequired[list[Criterion]]


@with_config(extra="allow")
class Origin(TypedDict):
    parameters: NotRequired[dict[str, Any]]
    versions: NotRequired[dict[str, Any]]
    commit: NotRequired[StrictStr | None]
    machine: NotRequired[StrictStr | None]
    seconds: NotRequired[StrictFloat | None]
    spent: NotRequired[dict[str, StrictFloat]]


@with_config(extra="allow")
class Failure(TypedDict):
    cell: int
    error: str
    message: str


@with_config(extra="allow")
class Output(TypedDict):
    output_type: str
    data: NotRequired[dict[str, Any]]
    metadata: NotRequired[dict[str, Any]]


@with_config(extra="allow")
class Cell(TypedDict):
    cell_type: str
    source: str | list[str]
    outputs: NotRequired[list[Output]]


@with_config(extra="allow")
class Papermill(TypedDict):
    parameters: NotRequired[dict[str, Any]]


@with_config(extra="allow")
class Metadata(TypedDict):
    papermill: NotRequired[Papermill]
    sources: NotRequired[dict[str, Any]]
    failure: NotRequired[Failure]


@with_config(extra="allow")
class Executed(TypedDict):
    """An executed notebook: as much of its form as anybody here relies on."""

    nbformat: int
    metadata: Metadata
    cells: list[Cell]


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def checked(path: Path | str, content: str | bytes) -> Executed:
    """The `content` of an executed notebook that lies at `path`. Raises `Damaged`."""
    try:
        notebook: Executed = _adapter(Executed).validate_json(content)
        _adapter(list[Claim]).validate_python(recorded(notebook, CLAIM_MIME))
        _adapter(list[Origin]).validate_python(recorded(notebook, PROVENANCE_MIME))
        glued(notebook)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise Damaged(path, f"{place}: {first['msg']}" if place else first["msg"]) from error
    except (KeyError, TypeError, AttributeError) as error:  # a number of the text without its name
        raise Damaged(path, f"{type(error).__name__}: {error}") from error
    return notebook


def read_executed(path: Path) -> Executed:
    """The executed notebook at `path`. Raises `Damaged`, also where there is none."""
    try:
        return checked(path, path.read_bytes())
    except OSError as error:
        raise Damaged(path, error.strerror or str(error)) from error


def read_claims(path: Path) -> list[Claim]:
    """The claims that the job `claims` collected at `path`. Raises `Damaged`."""
    try:
        claims: list[Claim] = _adapter(list[Claim]).validate_json(path.read_bytes())
    except OSError as error:
        raise Damaged(path, error.strerror or str(error)) from error
    except ValidationError as error:
        raise Damaged(path, error.errors()[0]["msg"]) from error
    return claims


def failure_in(path: Path) -> Failure:
    """What went wrong in a notebook that was kept at `path`. Raises `Damaged`."""
    failure = read_executed(path)["metadata"].get("failure")
    if failure is None:
        raise Damaged(path, "it does not say what failed")
    return failure


def take_away_damaged(
    paths: Iterable[Path],
    say: Callable[[str], Any],
    read: Callable[[Path], Any] = read_executed,
    dry_run: bool = False,
) -> None:
    """Deletes the files among `paths` that `read` calls damaged, and names them, so that they are made again.

    Snakemake takes any file for a result. In a dry run they are named only. Raises OSError, as for a folder
    in their place.
    """
    for path in paths:
        if path.is_symlink() or path.exists():
            try:
                read(path)
            except Damaged as damage:
                say(f"{damage}; {'a run makes it again' if dry_run else 'it is made again'}.")
                if not dry_run:
                    path.unlink()
