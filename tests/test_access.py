"""The built book for all who read it: with a screen reader, a keyboard, a phone, a slow line, or on paper."""

from __future__ import annotations

import functools
import io
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlparse

import nbformat
import pytest
import yaml
from axe_playwright_python.base import AXE_SCRIPT
from matplotlib import pyplot as plt
from playwright.sync_api import Browser, Page, Route
from pypdf import PageObject, PdfReader
from pypdf.generic import Destination
from reader import Visit, open_page, served
from test_book import BOOK, CHAPTERS, CONTENTS, PAGES, SOURCE

ROOT = BOOK.parent
NARROW = 360  # pixels, a small phone
WEIGHT = 3_000_000  # bytes
LEGIBLE = 7  # pixels, the least height of letters in a figure
# A4 between the margins of the style sheet, in pixels.
PAPER = (210 - 2 * 16) / 25.4 * 96


@contextmanager
def shown_as(page: Page, scheme: str, width: int) -> Iterator[None]:
    """The page in a colour scheme and at a width, and as it was afterwards."""
    page.evaluate("scheme => { document.documentElement.dataset.theme = scheme; }", scheme)
    page.set_viewport_size({"width": width, "height": 800})
    page.wait_for_timeout(500)  # the theme's scripts look at a new size a moment later
    yield
    page.set_viewport_size({"width": 1280, "height": 720})
    page.evaluate("document.documentElement.dataset.theme = 'light'")


# Off by default: the text on a button is part of its name (WCAG 2.5.3). And nothing is fetched again.
AXE = {
    "resultTypes": ["violations"],
    "rules": {"label-content-name-mismatch": {"enabled": True}},
    "preload": False,
}
# Half of a page's elements are words of code, of a few kinds. One of each kind is looked at, and the others
# are hidden in the meantime.
VIOLATIONS = """async options => {
    const kinds = new Set(), hidden = [];
    for (const word of document.querySelectorAll("pre span, dt.sig span")) {
        const kind = `${word.parentElement.className}|${word.className}`;
        if (kinds.has(kind) && !word.closest("a") && !word.querySelector("a")) hidden.push(word);
        kinds.add(kind);
    }
    hidden.forEach(word => { word.style.visibility = "hidden"; });
    const found = (await axe.run(options)).violations;
    hidden.forEach(word => { word.style.removeProperty("visibility"); });
    return found.flatMap(rule => rule.nodes.map(
        node => `${rule.impact}: ${rule.help}: ${node.html.slice(0, 150)}`));
}"""


def violations(page: Page) -> list[str]:
    return page.evaluate(VIOLATIONS, AXE)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1400), ("dark", NARROW)])
@pytest.mark.parametrize("name", [*PAGES, SOURCE])
def test_axe_finds_nothing(visit: Callable[[str], Visit], name: str, scheme: str, width: int) -> None:
    """No violation of any weight. No rule looks at colour and width at once, so two of the four combinations
    cover all."""
    page = visit(name).page
    page.evaluate(AXE_SCRIPT)
    with shown_as(page, scheme, width):
        found = violations(page)
        for _ in range(3):  # on a busy machine the moment is longer
            if not found:
                break
            page.wait_for_timeout(1000)
            found = violations(page)
    assert found == []


# Weight


def files(folder: Path, site: str, addresses: list[str]) -> set[Path]:
    """What a visitor has to transfer for these addresses."""
    return {folder / urlparse(a).path.lstrip("/") for a in addresses if a.startswith(site)}


def images(page: Page, selector: str) -> list[str]:
    return page.locator(f"article {selector}").evaluate_all("images => images.map(image => image.src)")


def heavy(visit: Visit, folder: Path, site: str) -> str:
    """What is wrong with the weight of a page read to its end, uncompressed: HTML, styles, scripts, fonts,
    and the figures of one theme, since those of the other are not transferred."""
    drawings = images(visit.page, "img")
    rest = [address for address in visit.requests if address not in drawings]
    themes = [images(visit.page, f"img:not(.only-{other})") for other in ("light", "dark")]
    wanted = [files(folder, site, rest + figures) for figures in themes]
    size = max(sum(file.stat().st_size for file in needed) for needed in wanted)
    return f"{visit.page.url}: {size / 1e6:.2f} MB" if size > WEIGHT else ""


@pytest.mark.parametrize("name", PAGES)
def test_a_page_weighs_no_more_than_three_megabytes(
    visit: Callable[[str], Visit], quick_book: Path, site: str, name: str
) -> None:
    assert not heavy(visit(name), quick_book, site)


def test_the_published_pages_weigh_no_more(browser: Browser) -> None:
    """The figures of the published runs are larger; this needs `make book`."""
    folder = BOOK / "_build" / "html"
    if not (folder / "index.html").exists():
        pytest.skip("the published book is not built here")
    with served(folder) as site:
        found = []
        for path in sorted(folder.rglob("*.html")):
            if not {"_static", "_modules"} & set(path.parts) and path.name != "index.html":
                visit = open_page(browser, site + path.relative_to(folder).as_posix())
                found.append(heavy(visit, folder, site))
                visit.page.context.close()
    assert list(filter(None, found)) == []


def await_figures(page: Page, selector: str) -> None:
    """Until all that the selector finds are there, seen or not."""
    page.wait_for_function(
        "selector => [...document.querySelectorAll(selector)].every(image => image.naturalWidth)",
        arg=f"article {selector}",
    )


def test_only_the_figures_of_the_theme_are_transferred(browser: Browser, site: str) -> None:
    """Those far below follow when the page is there; to print a dark page, the light ones come too."""
    page = browser.new_context(color_scheme="dark").new_page()
    page.goto(f"{site}chapters/11_latent_diversity.html")
    await_figures(page, "img.only-dark")
    shown, hidden = set(images(page, "img.only-dark")), set(images(page, "img.only-light"))
    assert len(shown) == len(hidden) > 5
    begun = dict(
        page.evaluate("performance.getEntriesByType('resource').map(entry => [entry.name, entry.startTime])")
    )
    assert shown <= begun.keys()
    assert not hidden & begun.keys()
    loaded = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventStart")
    assert sum(begun[figure] > loaded for figure in shown) > 4, "figures far below are loaded at once"
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    await_figures(page, "img.only-light")
    page.context.close()


@pytest.mark.parametrize("name", [CONTENTS["root"], *CHAPTERS[-2:]])
def test_the_first_paint_waits_for_text_and_styles_only(browser: Browser, site: str, name: str) -> None:
    """The text is on the page though no figure, no font and no script that may come later arrives."""
    page = browser.new_page()

    def answer(route: Route) -> None:
        late = {"image", "font", "fetch", "xhr"}
        later = route.request.resource_type in late or "mathjax" in route.request.url
        route.abort() if later or "/scripts/" in route.request.url else route.continue_()

    page.route("**/*", answer)
    page.goto(f"{site}{name}.html", wait_until="commit")
    page.wait_for_function("performance.getEntriesByName('first-contentful-paint').length")
    assert page.locator("article h1").is_visible()
    page.close()


# Figures


@pytest.mark.parametrize("name", [name for name in PAGES if name != "search"])
def test_figures_are_drawings_with_legible_text(
    visit: Callable[[str], Visit], quick_book: Path, name: str
) -> None:
    """On a phone, too: sharp at any size, and with letters that can be read."""
    page = visit(name).page
    with shown_as(page, "light", NARROW):
        figures = page.locator("article img:visible").evaluate_all(
            "images => images.map(image => [image.src, image.getBoundingClientRect().width])"
        )
    assert [source for source, _ in figures if not source.endswith(".svg")] == []
    for source, width in figures:
        svg = (quick_book / urlparse(source).path.lstrip("/")).read_text("utf-8")
        scale = width / float(re.findall(r'viewBox="\S+ \S+ (\S+) ', svg)[0])
        # matplotlib writes letters as outlines of 100 units, scaled to the size of the text.
        letters = [100 * float(size) for size in re.findall(r"scale\((\S+) -\1\)", svg)]
        letters += [float(size) for size in re.findall(r'font-size="([\d.]+)"', svg)]
        assert letters and scale * min(letters) > LEGIBLE - 0.1, source


def test_a_slim_figure_shows_the_same() -> None:
    """Fewer bytes, the same pixels of pictures, the same points and looks."""
    extension = runpy.run_path(str(BOOK / "extensions" / "vae_book.py"))
    figure, (left, right) = plt.subplots(1, 2)
    left.imshow([[0.1 * i * j for j in range(20)] for i in range(20)], cmap="gray")
    right.scatter(range(200), range(200), color="#d55e00", marker="$3$")
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    plt.close(figure)
    svg = buffer.getvalue()
    slim = extension["slim"](svg)
    assert len(slim) < 0.9 * len(svg)
    pairs = zip(*(extension["pictures"](drawing).values() for drawing in (svg, slim)), strict=True)
    assert [bool((before == after).all()) for before, after in pairs] == [True]
    assert slim.count("<use") == svg.count("<use")
    (look,) = re.findall(r"\.(look\d+)\{fill: #d55e00", slim)
    assert slim.count(f'class="{look}"') == 200


# Paper


@pytest.mark.parametrize("name", [name for name in PAGES if name != "search"])
def test_is_complete_on_paper(visit: Callable[[str], Visit], name: str) -> None:
    """In print, nothing of the text is cut off at the right or folded away, and nothing else is there."""
    page = visit(name).page
    page.emulate_media(media="print")
    with shown_as(page, "dark", int(PAPER)):
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.locator("html").get_attribute("data-theme") == "light"
        cut = page.locator("article").evaluate(
            "article => [...article.querySelectorAll('*')].filter(part => part.offsetWidth"
            " && !part.closest('mjx-assistive-mml') && part.getBoundingClientRect().right"
            " > article.getBoundingClientRect().right + 1).map(part => part.outerHTML.slice(0, 150))"
        )
        assert cut == []
        folded = page.locator("details:not(.hide):visible > :not(summary)")
        assert folded.count() == folded.locator("visible=true").count()
        for other in (
            "nav.bd-docs-nav",
            "#pst-header",
            ".bd-header-article",
            ".prev-next-footer",
            "button",
            ".headerlink",
        ):
            assert page.locator(f"{other}:visible").count() == 0, other
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.locator("html").get_attribute("data-theme") == "dark"
    page.emulate_media(media="null")


def test_figures_far_below_are_there_to_be_printed(browser: Browser, site: str) -> None:
    """The page fetches them itself: not every version of Chromium does so to print."""
    page = browser.new_page()
    page.goto(f"{site}{CHAPTERS[0]}.html")
    await_figures(page, "img.only-light")
    assert len(images(page, "img.only-light")) > 2
    assert page.evaluate("scrollY") == 0
    page.close()


@pytest.fixture(scope="module")
def pdf(quick_book: Path) -> Path:
    """The quick book on paper."""
    command = [sys.executable, "-m", "snakemake", "pdf", "--configfile", "config/quick.yaml"]
    run = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert run.returncode == 0, run.stdout
    return quick_book / "book.pdf"


def entries(outline: list[Any]) -> Iterator[Destination]:
    """The headings at all levels of a PDF's outline, which nests them as lists."""
    for entry in outline:
        if isinstance(entry, list):
            yield from entries(entry)
        else:
            yield entry


def heights(page: PageObject) -> list[float]:
    """How far above the foot of the sheet the pieces of text of a page are, in points."""
    found = []

    def note(text: str, outer: list[float], inner: list[float], *_: object) -> None:
        if text.strip():
            found.append(inner[5] * outer[3] + outer[5])

    page.extract_text(visitor_text=note)
    return found


def test_the_book_is_one_pdf(pdf: Path, quick_book: Path) -> None:
    reader = PdfReader(pdf)
    # Slow, so not all is read: the contents, where each page of the book begins, and more of the chapters.
    text = functools.cache(lambda number: reader.pages[number].extract_text())
    headings = [entry for entry in reader.outline if not isinstance(entry, list)]
    titles = [str(entry.title) for entry in headings]
    numbers = [reader.get_destination_page_number(entry) for entry in headings]
    assert numbers == sorted(set(numbers)), "every page of the book starts on a page of its own"
    assert len(titles) == 1 + len(PAGES) - 1, "the contents, and all pages but the search"
    chapters = [title for title in titles if re.match(r"\d+\. ", title)]
    assert [title.split(".")[0] for title in chapters] == [str(i + 1) for i in range(len(CHAPTERS))]
    listed = re.sub(r"\s+", " ", " ".join(map(text, range(*numbers[:2]))))
    for title, number in zip(titles, numbers, strict=True):
        assert title in re.sub(r"\s+", " ", text(number))
        assert title == "Contents" or f"{title} {number + 1}" in listed
        assert str(number + 1) in text(number).split(), "the page says its number"
    first = titles.index(chapters[0])
    for i in range(1, len(CHAPTERS) + 1):
        opening = "".join(text(numbers[first + i - 1] + page) for page in range(4))
        assert f"Figure {i}.1" in opening
        assert "Show code cell" not in opening
        assert not re.search(r"\\\(|\$\$", opening), "a formula is not drawn"
    for entry in entries(reader.outline):
        if entry.top < 150:  # points, near the foot of a page, whose number is at 25
            number = reader.get_destination_page_number(entry)
            below = [y for y in heights(reader.pages[number]) if 50 < y < entry.top - 20]
            assert below, f"{entry.title} is the last line of page {number + 1}"
    links = [a.get_object() for page in reader.pages for a in page.get("/Annots", [])]
    outside = [str(link["/A"]["/URI"]) for link in links if "/URI" in link.get("/A", {})]
    assert [address for address in outside if not address.startswith(("http://", "https://"))] == []
    assert len(links) > 10 * len(CHAPTERS)


def test_every_page_offers_the_pdf_that_is_there(pdf: Path, quick_book: Path) -> None:
    assert not list(quick_book.parent.glob(".book.*")), "nothing is left behind"
    for name in PAGES[:-1]:  # the search has no such menu
        page = quick_book / f"{name}.html"
        found = re.findall(r'href="([^"]*book\.pdf)"', page.read_text("utf-8"))
        assert [(page.parent / path).resolve() for path in found] == [pdf]


def test_without_chromium_the_pdf_says_so(
    quick_book: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vae_workflow import pdf

    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CHROMIUM", raising=False)
    assert pdf.print_pdf(quick_book) == 1
    assert (
        capsys.readouterr().err == "pdf: no Chromium found: install it, or name its executable in CHROMIUM\n"
    )


# Downloads


@pytest.mark.parametrize("name", CHAPTERS)
def test_the_executed_notebook_can_be_downloaded(visit: Callable[[str], Visit], name: str) -> None:
    page = visit(name).page
    link = page.locator("a.btn-download-source-button").get_attribute("href")
    answer = page.request.get(urljoin(page.url, str(link)))
    executed = ROOT / "build" / "quick" / "notebooks" / f"{Path(name).name}.ipynb"
    assert answer.body() == executed.read_bytes()
    cells = nbformat.reads(answer.text(), as_version=4).cells
    assert sum(bool(cell.get("outputs")) for cell in cells) > 5


def test_with_an_address_pages_lead_to_their_notebooks(tmp_path: Path, browser: Browser) -> None:
    """A book of two pages, with the book's own settings and an address."""
    source = tmp_path / "book"
    for folder in ("extensions", "assets", "templates"):
        shutil.copytree(BOOK / folder, source / folder)
    shutil.copy(BOOK / "references.bib", source)
    config = yaml.safe_load((BOOK / "_config.yml").read_text("utf-8"))
    address = config["repository"]["url"] = "https://github.com/someone/vae_lab"
    contents = {"format": "jb-book", "root": "intro", "chapters": [{"file": "chapters/01_one"}]}
    (source / "_config.yml").write_text(yaml.safe_dump(config))
    (source / "_toc.yml").write_text(yaml.safe_dump(contents))
    (source / "intro.md").write_text("# Start\n\n{{ launch }}\n")
    (source / "chapters").mkdir()
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# One")])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, source / "chapters" / "01_one.ipynb")
    command = [
        sys.executable,
        "-c",
        "import sys, pathlib as p; from vae_workflow.pages import sphinx; sphinx(*map(p.Path, sys.argv[1:]))",
    ]
    run = subprocess.run([*command, source, tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    page = browser.new_page()
    page.goto((tmp_path / "_build/html/chapters/01_one.html").as_uri())
    links = page.locator(".bd-header-article a").evaluate_all("links => links.map(link => link.href)")
    notebook_path = "someone/vae_lab/blob/main/notebooks/01_one.ipynb"
    assert f"https://colab.research.google.com/github/{notebook_path}" in links
    (binder,) = [link for link in links if link.startswith("https://mybinder.org/v2/gh/someone/vae_lab/main")]
    assert binder.endswith("notebooks/01_one.ipynb")
    assert address in links and any(link.startswith(f"{address}/issues/new") for link in links)
    page.goto((tmp_path / "_build/html/intro.html").as_uri())
    assert (
        f'%pip install "vae-lab[lab] @ git+{address}" in a cell of its own'
        in page.locator("article").inner_text()
    )
    page.close()
