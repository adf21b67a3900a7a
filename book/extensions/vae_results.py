"""What is made from the executed notebooks (all claims with verdicts, how long each page took), and from
measurements on a device.

`.. from-results:: WHAT` writes them. Each claim on a page is a target, so that the list can lead to it,
and any text by the role `claim`.
"""

from __future__ import annotations

import csv
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, get_args

import nbformat
from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import ReferenceRole, SphinxDirective
from vae_reference import table
from vae_replication import Replication, Row, is_open, strip, value_range, with_interval
from vae_words import words_of

from vae_lab.clock import Kind
from vae_lab.records import CLAIM_MIME, PROVENANCE_MIME, code_mark, recorded
from vae_lab.wording import Words, criteria_text, criterion_text


def label(page: str, number: int) -> str:
    return f"claim-{page.lower().replace('_', '-')}-{number}"


def name_claims(app: Sphinx, doctree: nodes.document) -> None:
    """Give each claim of a chapter a label."""
    page, domain = app.env.docname, app.env.get_domain("std")
    raw = doctree.findall(nodes.raw)
    boxes = [node for node in raw if node.astext().startswith('<div class="vae-claim ')]
    for number, box in enumerate(boxes, start=1):
        name = label(page.rpartition("/")[2], number)
        box.parent.insert(box.parent.index(box), nodes.target("", "", ids=[name]))
        domain.anonlabels[name] = page, name
        domain.labels[name] = page, name, name


def chapters(env: BuildEnvironment) -> list[Page]:
    """The executed notebooks of the book, further pages last; the page that is read depends on them."""
    found = Path(env.srcdir, "chapters").glob("*.ipynb")
    paths = sorted(found, key=lambda path: ("--" in path.stem, path.stem))
    for path in paths:
        env.note_dependency(str(path))
    return [_read(path, path.stat().st_mtime_ns) for path in paths]


@cache
def _read(path: Path, _time: int) -> Page:
    return Page(path)


def literal(text: str) -> str:
    """Text that reStructuredText shows as it is."""
    return re.sub(r"([\\`*_|<>:])", r"\\\1", text)


class Page:
    """An executed notebook of the book."""

    def __init__(self, path: Path) -> None:
        notebook = nbformat.read(path, as_version=4)
        self.name, self.path = path.stem, path
        self.title = notebook.cells[0].source.partition("\n")[0].removeprefix("# ")
        self.claims, self.mark = recorded(notebook, CLAIM_MIME), code_mark(notebook)
        (self.provenance,) = recorded(notebook, PROVENANCE_MIME)
        self.link = f":doc:`/chapters/{self.name}`"


def claims_table(name: str, rows: Iterable[tuple[Page, int]], every: Words, repeated: Replication) -> str:
    """Verdict, sentence, numbers and criterion of claims, and in how many of the tried blocks of seeds each
    holds."""
    words, cells = every["claims"], []
    for page, number in rows:
        claim = page.claims[number]
        verdict = f":holds:`{words['holds']}`" if claim["holds"] else f":fails:`{words['fails']}`"
        if found := repeated.claims.get((page.name, claim["sentence"])):
            verdict += f" · {found.share}"
        sentence = f":ref:`{literal(claim['sentence'])} <{label(page.name, number + 1)}>`"
        numbers = f"**{literal(claim['value'])}** · {literal(claim['evidence'])}"
        cells.append(([verdict], [sentence], [numbers], [literal(criteria_text(claim, every))]))
    header = [words[column] for column in ("verdict", "claim", "numbers", "criterion")]
    return table("", f"claims-{name}", header, cells)


def by_chance(claims: Sequence[Mapping[str, Any]], words: Mapping[str, str]) -> str:
    """How many of the claims would hold by chance if each truth were on its threshold."""
    chances = [[one["chance"] for one in claim.get("criteria", ()) if one["chance"]] for claim in claims]
    least = [min(of_one) for of_one in chances if of_one]
    return words["by_chance"].format(count=len(least), expected=f"{sum(least):.1f}") if least else ""


def replication_summary(pages: Sequence[Page], repeated: Replication, words: Mapping[str, str]) -> str:
    """How many claims hold in all runs, in all but one, and in fewer, and where the runs were made."""
    runs = len(repeated.variants)
    known = [repeated.claims.get((page.name, claim["sentence"])) for page in pages for claim in page.claims]
    held = [sum(claim.holds.values()) for claim in known if claim]
    counts = {"all": held.count(runs), "most": held.count(runs - 1)}
    fewer = len(held) - sum(counts.values())
    text = words["summary"].format(count=len(held), runs=runs, **counts, fewer=fewer, left=runs - 1)
    if constant := sum(claim.is_constant for claim in known if claim):
        text += " " + words["constant"].format(count=constant)
    if new := len(known) - len(held):
        text += " " + words["new"].format(count=new)
    return text + "\n\n" + origin(pages, repeated, words)


def origin(pages: Iterable[Page], repeated: Replication, words: Mapping[str, str]) -> str:
    """Where the runs of these chapters were made, and which of the chapters have changed since."""
    changed = [page.link for page in pages if repeated.mark(page.name) != page.mark]
    since = words["changed"].format(pages=", ".join(changed)) if changed else words["current"]
    return words["machine"].format(where="; ".join(map(literal, repeated.origins))) + " " + since


def replication_table(page: Page, repeated: Replication, every: Words) -> str:
    """For each claim of a chapter: in how many runs it holds, and of each criterion the values and where they
    lie."""
    words, cells = every["replication"], []
    for number, claim in enumerate(page.claims, start=1):
        if not (found := repeated.claims.get((page.name, claim["sentence"]))):
            continue
        held = "holds" if all(found.holds.values()) else "fails"
        sentence = f":ref:`{literal(claim['sentence'])} <{label(page.name, number)}>`"
        values, strips = [], []
        for criterion, rows in zip(claim["criteria"], found.criteria.values(), strict=False):
            right = sum(row["holds"] == "True" for row in rows)
            drawn = strip(rows, words["strip"].format(right=right, all=len(rows)))
            values.append(f"**{value_range(rows)}** · {literal(criterion_text(criterion, every))}")
            strips.append(f":svg:`{drawn}`" if drawn else "–")
        cells.append(([f":{held}:`{found.share}`"], [sentence], values, strips))
    header = [words[column] for column in ("share", "claim", "values", "places")]
    return table("", f"replication-{page.name}", header, cells)


def sensitivity_table(headlines: Sequence[tuple[Page, int]], repeated: Replication, every: Words) -> str:
    """For each of some claims: the settings under which it holds, and those under which it does not."""
    words, cells = every["sensitivity"], []
    for page, number in headlines:
        claim = page.claims[number]
        found, settings = repeated.claims[page.name, claim["sentence"]], repeated.parameters(page.name)
        held = [f":holds:`{literal(settings[v])}`" for v, holds in found.holds.items() if holds]
        missed = [
            f":fails:`{literal(settings[variant])}`: {failure(rows, claim['criteria'], every)}"
            for variant, rows in found.failures.items()
        ]
        link = f":ref:`{literal(claim['sentence'])} <{label(page.name, number + 1)}>`"
        cells.append(([link], ["; ".join(held) or "–"], missed or ["–"]))
    return table("", "sensitivity", [words[column] for column in ("claim", "held", "missed")], cells)


def failure(rows: Sequence[Row], criteria: Sequence[Mapping[str, Any]], every: Words) -> str:
    """What was measured for the criteria that one run misses, and whether it leaves them open."""
    texts = []
    for row in rows:
        verdict = every["sensitivity"]["open" if is_open(row) else "excluded"]
        wanted = criterion_text(criteria[int(row["criterion"]) - 1], every)
        texts.append(f"**{with_interval(row)}**, {verdict}: {literal(wanted)}")
    return "; ".join(texts)


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def timings_table(pages: list[Page], words: Mapping[str, str]) -> str:
    """What each page took, and the shares of its kinds of work.

    Where it ran is in the caption if that is the same for all, else in a column.
    """
    kinds = get_args(Kind)
    times = [
        [page.provenance["seconds"], *(page.provenance["spent"][kind] for kind in kinds)] for page in pages
    ]
    times.append([sum(column) for column in zip(*times, strict=True)])
    names = [*(page.link for page in pages), words["all"]]
    rows = [
        [[name], [duration(took)], *shares(took, parts)]
        for name, (took, *parts) in zip(names, times, strict=True)
    ]
    header = [words[column] for column in ("page", "time", *kinds, "rest")]
    places = [place(page.provenance) for page in pages]
    if len(set(places)) == 1:
        caption = f"{words['caption']} {words['machine']}: {places[0]}."
        return table(caption, "timings", header, rows)
    for row, where in zip(rows, [*places, "–"], strict=True):
        row.append([where])
    return table(words["caption"], "timings", [*header, words["machine"]], rows)


def shares(took: float, parts: Sequence[float]) -> list[list[str]]:
    """Cells with each of the `parts` of the seconds that something took, and the rest, in per cent."""
    return [[f"{100 * part / took:.0f} %" if took else "–"] for part in (*parts, max(0.0, took - sum(parts)))]


def place(provenance: Mapping[str, Any]) -> str:
    """The machine and the versions that a page ran with."""
    versions = (f"{name} {provenance['versions'][name]}" for name in ("python", "torch"))
    return literal(", ".join([provenance["machine"], *versions]))


MEASURED = "measured/replicas-h200.csv"  # by benchmarks/replicas.py
# By snakemake table, with config/replicate.yaml and config/sensitivity.yaml.
REPLICATION, SENSITIVITY = "measured/replication.csv", "measured/sensitivity.csv"
ROLES = """
.. role:: holds
   :class: vae-holds

.. role:: fails
   :class: vae-fails

.. role:: svg(raw)
   :format: html

"""


def replicas_table(measured: list[dict[str, str]]) -> str:
    """How long a step of training takes with more and more replicas, by model."""
    models = list(dict.fromkeys(row["model"] for row in measured))
    by_size: dict[str, list[list[str]]] = {}
    for row in measured:
        cost = f"{float(row['cost_of_a_replica']):.1%}"
        by_size.setdefault(row["replicas"], [[row["replicas"]]]).extend(
            [[f"{float(row['ms_per_step']):.1f}\u00a0ms"], [cost]]
        )
    header = [
        "Replicas",
        *(f"{model}: {what}" for model in models for what in ("a step", "cost of a replica")),
    ]
    device, torch = measured[0]["device"], measured[0]["torch"]
    caption = (
        f"A step of training on one {device} (torch {torch}), for all replicas together, and the cost of one "
        "replica relative to a model that is trained alone. Models by sizes: pixels, hidden units, latents."
    )
    return table(caption, "replicas", header, by_size.values())


class ClaimRole(ReferenceRole):
    """`{claim}`its words`` or `{claim}`title <its words>``: a link to the one claim whose sentence has these
    words, in a chapter. Without a title it shows the claim's verdict and its sentence."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        made = {
            (page.name, number): claim
            for page in chapters(self.env)
            if "--" not in page.name
            for number, claim in enumerate(page.claims, start=1)
        }
        found = [place for place, claim in made.items() if self.target in claim["sentence"]]
        if len(found) != 1:
            every = [claim["sentence"] for claim in made.values()]
            near = difflib.get_close_matches(self.target, every, 1, 0) or ["none"]
            problem = self.inliner.reporter.error(
                f"expected one claim with the words “{self.target}”, found {len(found)}; nearest: {near[0]}",
                line=self.lineno,
            )
            return [], [problem]
        name = label(*found[0])
        link = pending_xref(
            "", refdomain="std", reftype="ref", reftarget=name, refexplicit=True, refwarn=True
        )
        claim = made[found[0]]
        link += nodes.inline("", self.title if self.has_explicit_title else claim["sentence"])
        if self.has_explicit_title:
            return [link], []
        kind = "holds" if claim["holds"] else "fails"
        word = words_of(self.env.app)["claims"][kind]
        return [nodes.inline("", word, classes=[f"vae-{kind}"]), nodes.Text(": "), link], []


class FromResults(SphinxDirective):
    """`.. from-results:: WHAT`: `claims` or `timings` of this book's chapters, their `replication` on other
    seeds, or `replicas` on a device."""

    required_arguments = 1
    has_content = True  # of `sensitivity`: words of claims, one a line

    def run(self) -> list[nodes.Node]:
        return getattr(self, self.arguments[0])(chapters(self.env))

    def timings(self, pages: list[Page]) -> list[nodes.Node]:
        return self.parse_text_to_nodes(timings_table(pages, words_of(self.env.app)["timings"]))

    def replicas(self, _pages: list[Page]) -> list[nodes.Node]:
        path = Path(self.env.srcdir, MEASURED)
        self.env.note_dependency(str(path))
        with path.open(newline="", encoding="utf-8") as lines:
            return self.parse_text_to_nodes(replicas_table(list(csv.DictReader(lines))))

    def claims(self, pages: list[Page]) -> list[nodes.Node]:
        found = [(page, number) for page in pages for number in range(len(page.claims))]
        failing = [(page, number) for page, number in found if not page.claims[number]["holds"]]
        every, repeated = words_of(self.env.app), self.repeated(REPLICATION)
        words = every["claims"]
        true = len(found) - len(failing)
        held = words["summary"].format(true=true, all=len(found), pages=len(pages)) + ". "
        held += by_chance([page.claims[number] for page, number in found], words)
        if failing:
            held += f" {words['failing']}\n\n" + claims_table("failing", failing, every, repeated)
        shown = self.parse_text_to_nodes(ROLES + held)
        for page in pages:
            rows = [(page, number) for number in range(len(page.claims))]
            shown.append(self.section(page, claims_table(page.name, rows, every, repeated)))
        return shown

    def replication(self, pages: list[Page]) -> list[nodes.Node]:
        """What became of the claims on other seeds."""
        repeated, every = self.repeated(REPLICATION), words_of(self.env.app)
        words = every["replication"]
        if not repeated.rows:
            return self.parse_text_to_nodes(words["none"])
        mine = [page for page in pages if "--" not in page.name]
        shown = self.parse_text_to_nodes(replication_summary(mine, repeated, words))
        for page in mine:
            if any((page.name, claim["sentence"]) in repeated.claims for claim in page.claims):
                shown.append(self.section(page, replication_table(page, repeated, every)))
        return shown

    def sensitivity(self, pages: list[Page]) -> list[nodes.Node]:
        """The claims whose words are the lines of the directive, under other settings."""
        repeated, words = self.repeated(SENSITIVITY), words_of(self.env.app)
        if not repeated.rows:
            return self.parse_text_to_nodes(words["sensitivity"]["none"])
        every = [
            (page, number) for page in pages for number in range(len(page.claims)) if "--" not in page.name
        ]
        headlines = []
        for line in filter(None, self.content):
            found = [one for one in every if line in one[0].claims[one[1]]["sentence"]]
            if (
                len(found) != 1
                or (found[0][0].name, found[0][0].claims[found[0][1]]["sentence"]) not in repeated.claims
            ):
                raise self.error(
                    f"expected one claim with the words “{line}” that was tried, found {len(found)}"
                )
            headlines += found
        pages = dict.fromkeys(page for page, _ in headlines)
        shown = origin(pages, repeated, words["replication"]) + "\n\n"
        return self.parse_text_to_nodes(ROLES + shown + sensitivity_table(headlines, repeated, words))

    def repeated(self, path: str) -> Replication:
        """The claims in other runs of their chapters, on which the page that is read then depends."""
        file = Path(self.env.srcdir, path)
        self.env.note_dependency(str(file))
        return Replication(file)

    def section(self, page: Page, text: str) -> nodes.section:
        """A section about one chapter, with its title."""
        section = nodes.section(ids=[f"claims-of-{nodes.make_id(page.name)}"])
        section += nodes.title("", page.title)
        section += self.parse_text_to_nodes(ROLES + text)
        return section


def setup(app: Sphinx) -> dict[str, Any]:
    app.setup_extension("vae_words")
    app.add_directive("from-results", FromResults)
    app.add_role("claim", ClaimRole())
    app.connect("doctree-read", name_claims)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
