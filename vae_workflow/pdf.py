"""The whole book as one PDF: the built pages one after the other, printed by Chromium.

The pages are taken as they are, so that numbers, figures and references are those of the HTML book. Links
between them lead to the pages of the PDF; the table of contents has their numbers.
"""

import html
import os
import posixpath
import re
import sys
from functools import partial
from pathlib import Path

from bs4 import BeautifulSoup, Tag
from playwright.sync_api import Request
from pypdf import PdfReader

from .browser import NoChromium, chromium
from .pages import PDF
from .sources import SourcesChanged, unchanged

MENU = re.compile(r'<div class="dropdown dropdown-download-buttons">.*?(?=\s*</ul>)', re.DOTALL)
ITEM = """
<li><a href="{}" class="btn btn-sm dropdown-item">
<span class="btn__icon-container"><i class="fas fa-book"></i></span>
<span class="btn__text-container">The whole book (.pdf)</span>
</a></li>"""


def soup(folder: Path, page: str) -> BeautifulSoup:
    return BeautifulSoup((folder / page).read_text("utf-8"), "html.parser")


def one(page: Tag, selector: str) -> Tag:
    """The first element of a page that `selector` selects. Raises LookupError if there is none."""
    found = page.select_one(selector)
    if found is None:
        raise LookupError(f"a page of the book has no {selector}, which the theme makes")
    return found


def contents(folder: Path) -> list[tuple[str, str]]:
    """The book's pages in their order, with titles, and its parts, which have none: (page or "", title)."""
    start = str(one(soup(folder, "index.html"), "a")["href"])
    first = soup(folder, start)
    entries = first.select("nav.bd-docs-nav :is(a.internal, .caption)")
    heading = one(first, "article h1")
    one(heading, ".headerlink").decompose()
    return [(start, heading.get_text()), *[(str(e.get("href", "")), e.get_text()) for e in entries]]


def key(page: str, fragment: str = "") -> str:
    """The id in the PDF of a page, or of a place in it."""
    return page.removesuffix(".html").replace("/", "-") + (f".{fragment}" if fragment else "")


def article(folder: Path, page: str, pages: set[str]) -> Tag:
    """The text of a page, with addresses that hold beside the folder of the book."""
    text = one(soup(folder, page), "article.bd-article")
    for element in text.select("script, button, .headerlink, .only-dark"):
        element.decompose()
    for element in text.select("[id]"):
        if not str(element["id"]).startswith("T_"):  # by these, pandas' styles find their tables
            element["id"] = key(page, str(element["id"]))

    def absolute(path: str) -> str:
        return posixpath.normpath(posixpath.join(posixpath.dirname(page), path)) if path else page

    for image in text.select("img"):
        image["src"] = f"{folder.name}/{absolute(str(image['src']))}"
        image["loading"] = "eager"
    for link in text.select("a[href]"):
        path, _, fragment = str(link["href"]).partition("#")
        if ":" in path:
            continue
        if absolute(path) in pages:
            link["href"] = "#" + key(absolute(path), fragment)
        else:
            link.unwrap()
    text["id"] = key(page)
    return text


def document(folder: Path) -> str:
    """All pages as one, after a title page and a table of contents without numbers."""
    entries = contents(folder)
    pages = [page for page, _ in entries if page]
    first = soup(folder, pages[0])
    head = [
        e
        for e in first.select('link[rel="stylesheet"], script')
        if e.name == "link" or "mathjax" in str(e).lower()
    ]
    for element in head:
        for address in {"href", "src"} & set(element.attrs):
            element[address] = f"{folder.name}/{element[address]}"
    listed: list[str] = []
    heads: list[str] = []
    texts: list[str] = []
    for page, title in entries:
        title = html.escape(title)
        if not page:
            listed.append(f'<p class="part">{title}</p>')
            continue
        listed.append(f'<p><a href="#{key(page)}">{title}</a> <span data-page="{key(page)}"></span></p>')
        running = title.replace('"', r"\"")
        heads.append(f'@page page{len(texts)} {{ @top-right {{ content: "{running}"; }} }}')
        heads.append(f"[id='{key(page)}'] {{ page: page{len(texts)}; }}")
        texts.append(str(article(folder, page, set(pages))))
    name = one(first, ".logo__title").get_text()
    notes = "".join(
        f"<p>{e.get_text(' ', strip=True)}</p>" for e in first.select(".copyright, .extra_footer")
    )
    return f"""<!DOCTYPE html>
<html lang="{one(first, "html")["lang"]}" data-theme="light">
<head>
<meta charset="utf-8">
<title>{name}</title>
{"".join(map(str, head))}
<link rel="stylesheet" href="{folder.name}/_static/pdf.css">
<style>{chr(10).join(heads)}</style>
</head>
<body>
<header class="vae-title">
<img src="{folder.name}/_static/favicon.svg" alt="">
<p class="vae-name">{name}</p>
{notes}
</header>
<nav class="vae-contents"><h1>Contents</h1>{"".join(listed)}</nav>
<main class="bd-article-container">{"".join(texts)}</main>
</body>
</html>"""


def print_book(folder: Path) -> Path:
    """Prints the book in `folder`; the PDF, beside it."""
    source, printed = folder.parent / ".book.html", folder.parent / ".book.pdf"
    with chromium() as browser:
        source.write_text(document(folder), "utf-8")
        written: list[int] = []
        for _ in range(4):
            page = browser.new_page()  # a page that was printed before is laid out in another way
            lacking: list[str] = []
            page.on("requestfailed", partial(_note, lacking))
            page.goto(source.absolute().as_uri(), timeout=120_000)
            page.evaluate("MathJax.startup.promise")
            if lacking:
                raise FileNotFoundError(f"the book lacks {', '.join(lacking)}")
            page.evaluate(  # they have their room already
                "numbers => document.querySelectorAll('[data-page]')"
                ".forEach((place, i) => { place.textContent = numbers[i] ?? ''; })",
                written,
            )
            page.pdf(
                path=printed, prefer_css_page_size=True, print_background=True, outline=True, tagged=True
            )
            page.close()
            found = first_pages(printed)[1:]  # without that of the contents themselves
            if found == written:
                break
            written = found
        else:
            raise RuntimeError("the page numbers of the PDF do not settle")
    source.unlink()
    return printed


def _note(addresses: list[str], request: Request) -> None:
    addresses.append(request.url)


def first_pages(pdf: Path) -> list[int]:
    """The number of the page of each first-level heading."""
    reader = PdfReader(pdf)
    entries = [entry for entry in reader.outline if not isinstance(entry, list)]
    return [int(reader.get_destination_page_number(entry) or 0) + 1 for entry in entries]


def offer(folder: Path, name: str) -> None:
    """Put the PDF `name` of `folder` into the download menus of the pages there."""
    for page in folder.rglob("*.html"):
        path = os.path.relpath(folder / name, page.parent)
        item = ITEM.format(path)
        text = page.read_text("utf-8")
        menu = MENU.search(text)
        if menu and item not in text:
            private = page.with_suffix(".tmp")
            private.write_text(text[: menu.end()] + item + text[menu.end() :], "utf-8")
            os.replace(private, page)


def print_pdf(html: Path) -> int:
    """Prints the book in the folder `html` as a PDF there."""
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
