"""The built book, read in headless Chromium as a visitor reads it: served from a local folder, no network.

Each page is opened once in a context of its own, so that every visit is a first visit; the tests look at
what was recorded. The browser resolves no host but the local server's.
"""

from __future__ import annotations

import base64
import importlib
import inspect
import io
import pickle
import pkgutil
import re
import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote, urldefrag, urljoin, urlparse

import grimp
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image, ImageColor
from playwright.sync_api import Browser, Page
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from reader import Visit, open_page
from torch.distributions import Distribution, Independent

import vae_lab
from vae_lab import ESTIMATORS
from vae_lab.estimators.costs import NotApplicable
from vae_lab.vae.objectives import OBJECTIVES

BOOK = Path(__file__).parents[1] / "book"
CONTENTS = yaml.safe_load((BOOK / "_toc.yml").read_text("utf-8"))
FILES = [chapter["file"] for part in CONTENTS["parts"] for chapter in part["chapters"]]
CHAPTERS = [file for file in FILES if file.startswith("chapters/")]
PAGES = [CONTENTS["root"], *FILES, "search"]
SOURCE = "_modules/vae_lab/vae/training"  # one of the pages with the source of a module
FIGURES = 'figure img, .cell_output img, img[src*="_images"]'


def overflow(page: Page) -> int:
    """How far the page, rather than a box inside it, can be scrolled sideways, in pixels."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def test_every_built_page_is_tested(quick_book: Path) -> None:
    built = {path.relative_to(quick_book).as_posix() for path in quick_book.rglob("*.html")}
    sources = {name for name in built if name.startswith("_modules/")}
    built = {name for name in built if not name.startswith("_static/")} - sources
    assert built == {f"{name}.html" for name in PAGES} | {"index.html"}
    assert f"{SOURCE}.html" in sources


def test_the_front_door_leads_to_the_introduction(browser: Browser, site: str) -> None:
    page, answers = browser.new_page(), []
    page.on("response", lambda response: answers.append((response.status, response.url)))
    page.goto(site, wait_until="commit")
    page.wait_for_url(f"**/{CONTENTS['root']}.html")
    page.wait_for_load_state("networkidle")
    assert [answer for answer in answers if answer[0] >= 400] == []
    page.close()


@pytest.mark.parametrize("name", [*PAGES, SOURCE])
def test_loads_without_a_complaint(visit: Callable[[str], Visit], name: str) -> None:
    """No console error or warning at a first visit, no exception, no failed request."""
    assert visit(name).problems == []


@pytest.mark.parametrize("name", [*PAGES, SOURCE])
def test_asks_no_other_host(visit: Callable[[str], Visit], site: str, name: str) -> None:
    requests = visit(name).requests
    assert requests
    assert [url for url in requests if not url.startswith((site, "data:", "blob:"))] == []


@pytest.mark.parametrize("name", PAGES)
def test_has_an_icon(visit: Callable[[str], Visit], name: str) -> None:
    page = visit(name).page
    icon = page.locator('link[rel="icon"]').get_attribute("href")
    assert icon and page.request.get(urljoin(page.url, icon)).ok


@pytest.mark.parametrize("name", [name for name in PAGES if name != "search"])
def test_maths_is_rendered(visit: Callable[[str], Visit], name: str) -> None:
    page = visit(name).page
    formulas = page.locator(".math").count()
    assert page.locator(".math mjx-container").count() >= formulas
    assert page.locator("mjx-merror, merror, [data-mjx-error]").count() == 0
    text = page.locator("article").evaluate(
        "article => { const copy = article.cloneNode(true);"
        "copy.querySelectorAll('pre, code, script, mjx-container').forEach(node => node.remove());"
        "return copy.textContent; }"
    )
    assert re.findall(r"\\[(\[]|\\begin\{|\$\$|\\(?:mu|sigma|varepsilon)\b", text) == []
    assert re.findall(r"(?<![\w.)])-\.?\d\S*", text) == [], "a hyphen for a minus sign"


@pytest.mark.parametrize("name", [CONTENTS["root"], "notation", *CHAPTERS])
def test_has_formulas(visit: Callable[[str], Visit], name: str) -> None:
    assert visit(name).page.locator("mjx-container").count() > 0


@pytest.mark.parametrize("name", PAGES)
def test_images_load_and_say_what_they_show(visit: Callable[[str], Visit], name: str) -> None:
    images = (
        visit(name)
        .page.locator(FIGURES)
        .evaluate_all(
            "async images => Promise.all(images.map(async image => { image.loading = 'eager';"
            "await image.decode().catch(() => {}); return [image.src, image.alt, image.naturalWidth]; }))"
        )
    )
    assert [source for source, alternative, _ in images if len(alternative.strip()) < 10] == []
    assert [source for source, _, width in images if not width] == []


@pytest.mark.parametrize("name", CHAPTERS)
def test_figures_have_number_and_caption(visit: Callable[[str], Visit], name: str) -> None:
    page = visit(name).page
    images = page.locator("article img").count()
    figures = page.locator("figure").all()
    assert figures
    assert page.locator("figure img").count() == images, "an image is outside a figure"
    captions = [figure.locator("figcaption").inner_text() for figure in figures]
    assert [text for text in captions if not re.match(r"Figure \d+(\.\d+)* \S.{15,}", text)] == []
    assert len({text.split()[1] for text in captions}) == len(captions), "a number is used twice"


@pytest.mark.parametrize("width", [360, 1400])
@pytest.mark.parametrize("name", [*PAGES, SOURCE])
def test_does_not_scroll_sideways(visit: Callable[[str], Visit], name: str, width: int) -> None:
    page = visit(name).page
    before = page.viewport_size
    page.set_viewport_size({"width": width, "height": 800})
    excess = overflow(page)
    page.set_viewport_size(before or {"width": 1280, "height": 720})
    assert excess <= 0


@pytest.mark.parametrize("name", CHAPTERS)
def test_dark_mode(visit: Callable[[str], Visit], name: str) -> None:
    """The button changes theme and background, and every static figure shows its dark twin, on the page's
    colour."""
    page = visit(name).page
    root, button = page.locator("html"), page.locator(".theme-switch-button:visible").first

    def shown(kind: str) -> set[bool]:
        images = page.locator(f"figure:not(.vae-playing) img.{kind}")
        return set(images.evaluate_all("images => images.map(image => image.offsetWidth > 0)"))

    def background() -> str:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    assert root.get_attribute("data-theme") == "light"
    assert (shown("only-light"), shown("only-dark")) == ({True}, {False})
    light = background()

    button.click()  # auto -> dark, since the system's scheme is light
    assert root.get_attribute("data-theme") == "dark"
    assert (shown("only-light"), shown("only-dark")) == ({False}, {True})
    assert page.locator("figure:visible").count() == page.locator("figcaption:visible").count()
    dark = background()
    assert dark != light
    colour = "#" + "".join(f"{int(part):02x}" for part in re.findall(r"\d+", dark)[:3])
    twin = page.locator("figure img.only-dark").first.get_attribute("src")
    assert twin and colour in page.request.get(urljoin(page.url, twin)).text().lower()

    button.click()  # dark -> light
    assert root.get_attribute("data-theme") == "light"


def test_columns_of_words_are_left_aligned_and_numbers_right(browser: Browser) -> None:
    extension = runpy.run_path(str(BOOK / "extensions" / "vae_book.py"))
    data = {"μ": [1.5, -0.2], "parameter": ["loc", "–"], "answer": ["None", 2.5], "law": ["a", "b"]}
    frame = pd.DataFrame(data)
    nested = pd.concat({"one": frame, "two": frame}, axis="columns")
    nested.index = pd.MultiIndex.from_product([["row"], [1, 2]], names=["first", "second"])
    context = {"body": frame.style.hide().to_html() + frame.to_html() + nested.style.to_html()}
    extension["mend_page"](None, "page", "page.html", context, None)
    page = browser.new_page()
    style = (BOOK / "assets" / "book.css").read_text("utf-8")
    cell = f'<div class="bd-article"><div class="cell_output">{context["body"]}</div></div>'
    page.set_content(f"<style>{style}</style>{cell}")
    looks = page.locator(":is(th, td):not(:first-child, :empty, [colspan])").evaluate_all(
        "cells => cells.map(cell => [cell.innerText, getComputedStyle(cell).textAlign])"
    )
    page.close()
    words = {"parameter", "law", "loc", "–", "a", "b"}
    assert words < {text for text, _ in looks}
    assert [cell for cell in looks if cell[1] != ("left" if cell[0] in words else "right")] == []


def test_numbers_are_set_as_in_print() -> None:
    """With minus signs, and no line break within the bounds of an interval; code stays as it is."""
    extension = runpy.run_path(str(BOOK / "extensions" / "vae_book.py"))
    code = "<code>-1.5 [-2.5, -0.5]</code>"
    context = {"body": f"<p>-1.5 [-2.5, -0.5], 3 [26%, 36%], 2017-18, [Li 2019, 2020a] {code}</p>"}
    extension["mend_page"](None, "page", "page.html", context, None)
    text = "−1.5 [−2.5,~−0.5], 3 [26%,~36%], 2017-18, [Li 2019, 2020a]".replace("~", "\N{NO-BREAK SPACE}")
    assert context["body"] == f"<p>{text} {code}</p>"


def test_dark_figures_turn_drawings_but_not_colours() -> None:
    """Ink and paper are swapped in lines and in grey pictures; a coloured picture stays as it is."""
    extension = runpy.run_path(str(BOOK / "extensions" / "vae_book.py"))
    ink, paper, dark_paper = (extension[name] for name in ("INK", "PAPER", "DARK_PAPER"))

    def picture(*colours: str) -> str:
        buffer = io.BytesIO()
        image = Image.new("RGBA", (len(colours), 1))
        for column, colour in enumerate(colours):
            image.putpixel((column, 0), ImageColor.getcolor(colour, "RGBA"))
        image.save(buffer, "PNG")
        return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()

    nothing = "#00000000"  # transparent, as between the images of a row
    drawing = picture(paper, paper, ink, *[nothing] * 4)
    heat_map = picture(paper, "#d55e00", "#0072b2")
    lines = f'<path fill="{paper.upper()}" stroke="{ink}"/>'
    dark = extension["darken"](
        f'<svg xmlns="x"><image href="{drawing}"/><image href="{heat_map}"/>{lines}</svg>'
    )
    assert ink not in dark
    assert paper not in dark.lower()
    assert heat_map in dark
    assert drawing not in dark
    first = re.findall(r"base64,([^\"]+)", dark)[0]
    with Image.open(io.BytesIO(base64.b64decode(first))) as image:
        assert image.convert("RGB").getpixel((0, 0)) == ImageColor.getcolor(dark_paper, "RGB")


def test_follows_a_dark_system_at_the_first_visit(browser: Browser, site: str) -> None:
    page = browser.new_context(color_scheme="dark").new_page()
    page.goto(f"{site}{CONTENTS['root']}.html", wait_until="commit")
    page.wait_for_selector("article", state="attached")
    assert page.locator("html").get_attribute("data-theme") == "dark"
    page.context.close()


def test_search_finds_the_trick(browser: Browser, site: str) -> None:
    visit = open_page(browser, f"{site}search.html?q=reparameterization")
    visit.page.wait_for_selector("#search-results li a")
    links = visit.page.locator("#search-results li a")
    found = links.evaluate_all("links => links.map(link => link.pathname)")
    assert any(path.endswith("02_reparameterization.html") for path in found)
    texts = len([path for path in found if "/chapters/" in path])  # a function of the package has no excerpt
    visit.page.wait_for_function("n => document.querySelectorAll('.context').length >= n", arg=texts)
    excerpts = visit.page.locator(".context").all_text_contents()
    assert any("μ" in text for text in excerpts), "formulas are readable"
    assert not [text for text in excerpts if re.search(r"\\(\(|mu|sigma)", text)], "and without their markup"
    assert not [text for text in excerpts if re.search(r"\bimport \w|\w=\w", text)], "and no code"
    assert visit.problems == []
    visit.page.context.close()


@pytest.mark.parametrize(
    ("words", "place"),
    [
        ("BCE", "glossary"),
        ("negative loss", "faq"),
        ("diffusion", "glossary"),
        ("MSE", "glossary"),
        ("β-VAE", "glossary"),
        ("VQ-VAE", "glossary"),
        ("straight-through", "glossary"),
        ("annealing", "faq"),
        ("clamp", "faq"),
        ("conditional VAE", "glossary"),
    ],
)
def test_search_answers_what_people_ask(browser: Browser, site: str, words: str, place: str) -> None:
    """Among the first five results; an entry of the glossary leads on to the answer."""
    page = open_page(browser, f"{site}search.html?q={quote(words)}").page
    links = page.locator("#search-results li a")
    links.first.wait_for()
    page.wait_for_timeout(500)  # results appear one by one
    first = links.evaluate_all("links => links.slice(0, 5).map(link => link.pathname)")
    assert f"/{place}.html" in first
    page.context.close()


def test_search_box_leads_to_results(browser: Browser, site: str) -> None:
    page = open_page(browser, f"{site}{CONTENTS['root']}.html").page
    page.keyboard.press("Control+k")
    page.keyboard.type("reparameterization")
    page.keyboard.press("Enter")
    page.wait_for_selector("#search-results li a")
    page.context.close()


def test_works_from_a_folder(browser: Browser, quick_book: Path) -> None:
    """Opened as a file, without any server: formulas are drawn and the search answers."""
    chapter = open_page(browser, (quick_book / f"{CHAPTERS[0]}.html").as_uri())
    assert chapter.page.locator("mjx-container").count() > 0
    search = open_page(browser, (quick_book / "search.html").as_uri() + "?q=reparameterization")
    search.page.wait_for_selector("#search-results li a")
    assert chapter.problems + search.problems == []
    for opened in (chapter, search):
        opened.page.context.close()


@pytest.mark.parametrize("name", CHAPTERS)
def test_ends_with_its_provenance(visit: Callable[[str], Visit], name: str) -> None:
    footers = visit(name).page.locator("footer.vae-provenance")
    assert footers.count() == 1
    text = footers.inner_text()
    assert f"papermill notebooks/{name.removeprefix('chapters/')}.ipynb" in re.sub(r"\s+", " ", text)


@pytest.mark.parametrize("name", CHAPTERS)
def test_claims_state_sentence_evidence_and_verdict(visit: Callable[[str], Visit], name: str) -> None:
    claims = visit(name).page.locator(".vae-claim").all()
    assert claims
    for claim in claims:
        kinds = set((claim.get_attribute("class") or "").split()) & {"vae-claim-holds", "vae-claim-fails"}
        assert len(kinds) == 1
        assert claim.locator(".vae-claim-sentence").inner_text().strip()
        assert claim.locator(".vae-claim-evidence").inner_text().strip()


@pytest.mark.parametrize("name", PAGES)
def test_code_and_equations_are_never_cut(visit: Callable[[str], Visit], name: str) -> None:
    """On a wide screen neither scrolls."""
    page = visit(name).page
    before = page.viewport_size
    page.set_viewport_size({"width": 1400, "height": 800})
    cut = page.locator("article pre:visible, article div.math").evaluate_all(
        "blocks => blocks.filter(block => block.scrollWidth > block.clientWidth)"
        ".map(block => block.textContent)"
    )
    page.set_viewport_size(before or {"width": 1280, "height": 720})
    assert cut == []


@pytest.mark.parametrize("name", CHAPTERS)
def test_code_is_behind_one_bar_for_each_result(visit: Callable[[str], Visit], name: str) -> None:
    """Folded code belongs to what is shown under it."""
    page = visit(name).page
    bars = page.locator("details.hide").evaluate_all(
        "bars => bars.map(bar => [bar.innerText, !!bar.closest('.cell').querySelector('.cell_output')])"
    )
    assert bars[0][0] == "Imports", "the first screen is for the question"
    assert [text for text, shows in bars[1:] if not shows] == []


@pytest.mark.parametrize("name", PAGES)
def test_links_have_one_colour(visit: Callable[[str], Visit], name: str) -> None:
    links = visit(name).page.locator("article :is(p, li, td, dd) > a:not(.headerlink)")
    colours = links.evaluate_all(
        "links => links.filter(link => link.innerText).map(link => getComputedStyle(link).color)"
    )
    assert len(set(colours)) <= 1


@pytest.mark.parametrize("name", CHAPTERS)
def test_shows_no_warning_traceback_or_stray_value(visit: Callable[[str], Visit], name: str) -> None:
    """Results are tables, figures and claims; what Python prints of a cell's last line is none."""
    unwanted = ".output.stderr, .output.traceback, .output.text_plain, .tag_injected-parameters"
    assert visit(name).page.locator(unwanted).count() == 0


@pytest.mark.parametrize("name", [*PAGES, SOURCE])
def test_links_resolve(visit: Callable[[str], Visit], quick_book: Path, site: str, name: str) -> None:
    """Every link to a page of the book leads to a file that exists, and to an id inside it."""
    page = visit(name).page
    links = page.locator("a[href]").evaluate_all("links => links.map(a => a.href)")
    inside = {urldefrag(link) for link in links if link.startswith(site)}
    assert inside
    broken = []
    for address, fragment in inside:
        target = quick_book / (urlparse(address).path.lstrip("/") or "index.html")
        if not target.is_file():
            broken.append(address)
        elif fragment and target.suffix == ".html" and f'id="{fragment}"' not in target.read_text("utf-8"):
            broken.append(f"{address}#{fragment}")
    assert broken == []


# Pages made from the package

MADE = ["estimators", "api"]
MODULES = [
    importlib.import_module(module.name) for module in pkgutil.walk_packages(vae_lab.__path__, "vae_lab.")
]


@dataclass
class Row:
    """A row of a table as it was written, before formulas are drawn."""

    cells: list[str]
    links: list[str]


def rows(page: Page, table: str) -> list[Row]:
    """The body of a table, with the quotes and apostrophes of docstrings."""
    found = page.evaluate(
        """async table => {
            const source = await (await fetch(location.href)).text();
            const page = new DOMParser().parseFromString(source, "text/html");
            return [...page.querySelectorAll(`#${table} tbody tr`)].map(row => [
                [...row.cells].map(cell => cell.textContent.trim()),
                [...row.querySelectorAll("a")].map(link => link.getAttribute("href")),
            ]);
        }""",
        table,
    )
    straight = str.maketrans("‘’“”", "''\"\"")
    return [Row([cell.translate(straight) for cell in cells], links) for cells, links in found]


def plain(docstring: str | None) -> str:
    """The first line of a docstring, without the marks of code."""
    return (docstring or "").partition("\n")[0].replace("`", "")


def test_every_estimator_has_its_row(visit: Callable[[str], Visit]) -> None:
    table = rows(visit("estimators").page, "table-estimators")
    assert [row.cells[0].split()[0] for row in table] == list(ESTIMATORS)
    for row, (name, estimator) in zip(table, ESTIMATORS.items(), strict=True):
        _, definition, requires, bias, _ = row.cells
        assert definition == plain(estimator.summary)
        assert requires.split("\n") == [plain(r.__doc__) for r in estimator.requires] or ["nothing"]
        assert bias == ("unbiased" if estimator.unbiased else "biased")
        entry = f"api.html#{estimator.function.__module__}.{name}"
        source = [f"bibliography.html#{estimator.reference}"] if estimator.reference else []
        assert row.links == [entry, *source]


def test_every_objective_has_its_row(visit: Callable[[str], Visit]) -> None:
    table = rows(visit("estimators").page, "table-objectives")
    assert [row.cells[:2] for row in table] == [[name, plain(o.summary)] for name, o in OBJECTIVES.items()]
    for row, (name, objective) in zip(table, OBJECTIVES.items(), strict=True):
        entry = f"api.html#{objective.function.__module__}.{name}"
        assert row.links == [entry, f"bibliography.html#{objective.reference}"]


def of_kind(kind: str, size: int) -> Distribution:
    """A distribution of the named kind in `size` dimensions."""
    law: Any = getattr(torch.distributions, kind)
    required = [p for p in inspect.signature(law).parameters.values() if p.default is p.empty]
    q = law(*[torch.full((size,), 0.5)] * max(1, len(required)))
    return q if q.event_shape else Independent(q, 1)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_evaluations_are_those_that_the_estimator_counts(visit: Callable[[str], Visit], name: str) -> None:
    """At other n and D than the formula was found from, and for all kinds of q that the estimator takes."""
    (cell,) = [
        row.cells[-1]
        for row in rows(visit("estimators").page, "table-estimators")
        if row.cells[0].split()[0] == name
    ]
    formulas = re.findall(r"\\\((.+?)\\\)(?: for ([\w, ]+))?", cell)
    assert formulas, cell
    taken = 0
    for kind in ("Normal", "Laplace", "Gamma", "Exponential", "Poisson", "Bernoulli", "OneHotCategorical"):
        for n, size in ((2, 1), (6, 5), (10, 4)):
            q = of_kind(kind, size)
            try:
                ESTIMATORS[name](q, lambda z: (z**2).sum(-1), n)
            except NotApplicable:
                continue
            (formula,) = [text for text, kinds in formulas if not kinds or kind in kinds.split(", ")]
            product = re.sub(r"(?<=[\dn])(?=[nD])", "*", formula.replace(r"\,", "*"))
            assert eval(product, {"n": n, "D": size}) == ESTIMATORS[name].evaluations(n, q), (formula, kind)
            taken += 1
    assert taken


def test_all_modules_have_a_section_from_the_bottom_up(visit: Callable[[str], Visit]) -> None:
    """A folder comes before its files, and each module after those that it imports."""
    sections = visit("api").page.locator("article :is(h2, h3) code").all_inner_texts()
    assert sorted(sections) == sorted(module.__name__ for module in MODULES)
    graph = grimp.build_graph("vae_lab", exclude_type_checking_imports=True, cache_dir=None)
    for place, name in enumerate(sections):
        folder = name.rpartition(".")[0]
        assert folder in {"vae_lab", *sections[:place]}
        if not graph.find_children(name):
            below = graph.find_modules_directly_imported_by(name)
            assert below <= set(sections[:place]), name


def public(module: ModuleType) -> set[str]:
    """Full names of the functions, classes and registered things that a module defines."""
    members = {name: thing for name, thing in vars(module).items() if not name.startswith("_")}
    return {
        f"{module.__name__}.{name}"
        for name, thing in members.items()
        if (callable(thing) and getattr(thing, "function", thing).__module__ == module.__name__)
        or (isinstance(thing, vae_lab.registry.Registry) and name in module.__annotations__)
    }


def test_all_that_is_public_has_one_entry(visit: Callable[[str], Visit]) -> None:
    page = visit("api").page
    entries = page.locator("article dt.sig").evaluate_all("entries => entries.map(entry => entry.id)")
    assert len(entries) == len(set(entries))
    assert set().union(*map(public, MODULES)) <= set(entries)
    assert [entry for entry in entries if "._" in entry] == []
    top = rows(page, "table-names")
    assert [row.cells[0] for row in top] == vae_lab.__all__
    assert {row.links[0].removeprefix("#") for row in top} <= set(entries)
    assert [row.cells for row in top if not row.cells[1]] == []


def test_estimators_are_shown_as_they_are_called(visit: Callable[[str], Visit]) -> None:
    entry = visit("api").page.locator("dl:has(> [id='vae_lab.estimators.discrete.rebar'])")
    shown, _, rest = entry.locator("dt").inner_text().partition("[source]")
    assert shown.strip() == "rebar(q, cost, n=1, *, temperature=0.5, scale=1.0)"
    assert rest.strip() in {"", "#"}
    assert "Unbiased. Source: Tucker et al. [2017]." in entry.inner_text()


def test_functions_classes_and_methods_have_their_source_beside_them(visit: Callable[[str], Visit]) -> None:
    kinds = "article dl:is(.function, .class, .method, .exception) > dt.sig"
    entries = (
        visit("api")
        .page.locator(kinds)
        .evaluate_all(
            "all => all.map(entry => [entry.id,"
            " entry.querySelector('a:has(.viewcode-link)')?.getAttribute('href')])"
        )
    )
    assert len(entries) > 150
    for entry, source in entries:
        module = max((m.__name__ for m in MODULES if entry.startswith(f"{m.__name__}.")), key=len)
        name = entry.removeprefix(f"{module}.")
        assert source == f"_modules/{module.replace('.', '/')}.html#{name}", entry


def test_a_name_in_the_code_of_a_chapter_leads_to_its_source(browser: Browser, quick_book: Path) -> None:
    """From a folder, too: to the entry first, and from there to the code."""
    page = open_page(browser, (quick_book / "chapters/03_vae.html").as_uri()).page
    page.locator(".cell_input a.vae-entry:visible", has_text="fit").first.click()
    page.wait_for_url("**/api.html#vae_lab.vae.training.fit")
    page.locator("[id='vae_lab.vae.training.fit'] a:has(.viewcode-link)").click()
    page.wait_for_url("**/_modules/vae_lab/vae/training.html#fit")
    assert "def fit(" in page.locator("[id='fit']").inner_text()
    page.context.close()


def test_only_names_of_the_package_become_links_and_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BOOK / "extensions"))
    extension = runpy.run_path(str(BOOK / "extensions" / "vae_code.py"))
    program = (
        "from vae_lab import fit, plots\nfrom torch import nn\n"
        "fit(vae, x.fit, fit=1)\nplots.image_rows(rows)\nnn.Linear\nplots.INK"
    )
    block = highlight(program, PythonLexer(), HtmlFormatter(nowrap=True))
    imported = {"fit": "vae_lab.fit", "plots": "vae_lab.plots", "nn": "torch.nn"}
    linked = extension["link_names"](block, imported, lambda full: f"api.html#{full}")
    places = re.findall(r'<a class="vae-entry" href="api.html#([^"]*)">(.*?)</a>', linked)
    assert [place for place, _ in places] == ["vae_lab.vae.training.fit", "vae_lab.plots.pictures.image_rows"]
    assert [extension["plain"](text) for _, text in places] == ["fit", "plots.image_rows"]
    assert extension["plain"](linked) == extension["plain"](block)


@pytest.mark.parametrize("name", MADE)
def test_shows_nothing_of_the_machine_that_made_it(quick_book: Path, name: str) -> None:
    text = (quick_book / f"{name}.html").read_text("utf-8")
    assert re.findall(r".*\bat 0x[0-9a-f]+.*|&lt;(?:function|class|module|object) .*", text) == []
    assert [
        str(p) for p in (BOOK.parent, Path.home(), sys.prefix, Path(torch.__file__).parent) if f"{p}/" in text
    ] == []


@pytest.mark.parametrize("name", MADE)
def test_is_made_again_when_the_package_changes(quick_book: Path, name: str) -> None:
    """Sphinx knows the files that the page was made from."""
    with (quick_book.parent / ".doctrees" / "environment.pickle").open("rb") as file:
        dependencies = pickle.load(file).dependencies[name]
    known = {(quick_book.parents[1] / path).resolve() for path in dependencies}
    assert {Path(str(module.__file__)).resolve() for module in (vae_lab, *MODULES)} <= known


def test_docstrings_become_restructuredtext() -> None:
    convert = runpy.run_path(str(BOOK / "extensions" / "vae_reference.py"))["for_the_page"]
    docstring = """z (*batch, Z) of `q(z|x)`, *not* z_1.

See williams1992simple; raises `NotApplicable` (kingma2014auto,
mohamed2020monte).

    E_q[f] = mu * f

* `a
  b`: one

>>> 2 * 3
6"""
    page = r"""z (\*batch, Z) of ``q(z|x)``\ , *not* z\_1.

See :cite:t:`williams1992simple`; raises """
    page += r""":py:obj:`NotApplicable <vae_lab.estimators.costs.NotApplicable>`\  """
    page += r""":cite:p:`kingma2014auto, mohamed2020monte`.

.. code-block:: text

    E_q[f] = mu * f

* ``a b``\ : one

>>> 2 * 3
6"""
    lines = docstring.split("\n")
    convert(None, "function", "name", None, None, lines)
    assert "\n".join(lines) == page


def test_mentions_no_repository_until_its_address_is_set(visit: Callable[[str], Visit]) -> None:
    address = yaml.safe_load((BOOK / "_config.yml").read_text("utf-8"))["repository"]["url"]
    page = visit(CHAPTERS[0]).page
    buttons = page.locator('[class*="source-repository"], [class*="source-issues"], .dropdown-launch-buttons')
    assert (buttons.count() > 0) == bool(address)
