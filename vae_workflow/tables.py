"""Tables of what came out of runs.

A run is an executed notebook, which carries its parameters, claims, results and provenance, so that a folder
of runs is a table.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from vae_lab.records import CLAIM_MIME, PROVENANCE_MIME, glued, recorded

from .experiments import Experiment

if TYPE_CHECKING:
    import pandas as pd

START = ["run", "status"]
END = [
    "kind",
    "name",
    "value",
    "number",
    "holds",
    "evidence",
    "commit",
    "code",
    "torch",
    "machine",
    "seconds",
]


def column(parameter: str) -> str:
    """The column of a parameter in `results`: its name, unless another column has it."""
    taken = parameter in (*START, *END) or parameter.startswith("parameter_")
    return f"parameter_{parameter}" if taken else parameter


def results(runs: Iterable[tuple[str, Mapping[str, Any]]], experiment: Experiment) -> pd.DataFrame:
    """What came out of executed notebooks `runs`, pairs (name, notebook): a row for each claim and result.

    Columns: `run`, `status` (done or failed), one for each parameter, `kind` (claim, result or error),
    `name`, `value` (as text), `number` (where it is one), `holds` and `evidence` (of claims), and where it
    came from: `commit`, `code` (short hash of notebook, package and lock file: equal where these were equal),
    `torch`, `machine`, `seconds`.
    """
    import pandas as pd

    default = {column(name): parameter.default for name, parameter in experiment.parameters.items()}
    rows = []
    for run, notebook in runs:
        metadata = notebook["metadata"]
        origin = (recorded(notebook, PROVENANCE_MIME) or [{}])[-1]
        failure, sources = metadata.get("failure"), metadata.get("sources", {})
        given = metadata.get("papermill", {}).get("parameters", {}) | origin.get("parameters", {})
        start = {"run": run, "status": "failed" if failure else "done", **default}
        start |= {column(name): value for name, value in given.items()}
        code = json.dumps([sources.get(key) for key in ("notebook", "package", "lock")])
        end = {
            "commit": origin.get("commit"),
            "code": hashlib.sha256(code.encode()).hexdigest()[:8] if sources else None,
            "torch": origin.get("versions", {}).get("torch"),
            "machine": origin.get("machine"),
            "seconds": origin.get("seconds"),
        }
        claims = recorded(notebook, CLAIM_MIME)
        found = [{"kind": "claim", "name": claim["sentence"], **claim} for claim in claims]
        found += [{"kind": "result", "name": name, "value": value} for name, value in glued(notebook).items()]
        if failure:
            found.append({"kind": "error", "name": failure["error"], "value": failure["message"]})
        rows += [start | row | end for row in found or [{"kind": "run", "name": run, "value": None}]]
    table = pd.DataFrame(rows).reindex(columns=[*START, *default, *END])
    table["number"] = pd.to_numeric(table["value"], errors="coerce")
    return table.astype({"holds": "boolean", "seconds": "float"})


def as_csv(table: pd.DataFrame) -> str:
    """A table as CSV, with an apostrophe before a text that a spreadsheet would take for a formula."""
    return str(table.map(_no_formula).to_csv(index=False))


def _no_formula(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    cell = "\n".join(cell.replace("\r\n", "\n").split("\r"))  # which CSV takes for the end of a row
    if not cell.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\n")):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def as_parquet(table: pd.DataFrame) -> bytes:
    """A table as Parquet, whose columns have one type each: one of numbers and texts is one of texts."""
    import pandas as pd

    def plain(cells: pd.Series[Any]) -> pd.Series[Any]:
        if cells.dtype != object or pd.api.types.infer_dtype(cells, skipna=True) in _ONE_TYPE:
            return cells
        return cells.map(_in_text, na_action="ignore")

    file = io.BytesIO()
    table.apply(plain).to_parquet(file, index=False)
    return file.getvalue()


_ONE_TYPE = {"string", "integer", "floating", "boolean", "empty"}


def _in_text(cell: Any) -> str:
    return cell if isinstance(cell, str) else json.dumps(cell)
