"""What the book needs beyond its configuration: figures for the page, figures to play with, and links to the
repository once it is known.

**Figures.** Notebooks draw SVG with ink on white paper and know nothing of themes. For each such
figure this extension writes a twin in which the two colours are those of the dark theme, and puts both
into the same figure under the theme's classes `only-light` and `only-dark`: one number, one caption. The
page keeps room for a figure and loads it when the reader comes near or all else is there (assets/book.js);
the twin that is not shown, only to print it.

**Playable figures.** A cell with a figure may also hold data for one of the scripts in assets/play/. They go
into the page as JSON, with that script, which puts its own picture in the place of the static one. Without
scripts, and on paper, the static one is there.

**Repository.** `repository.url` in `_config.yml` is the only setting; while it is empty, no button that
needs it appears.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from copy import deepcopy
from itertools import zip_longest
from math import ceil
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from bs4 import BeautifulSoup
from docutils import nodes
from numpy.typing import NDArray
from PIL import Image
from sphinx.application import Sphinx
from sphinx.config import Config
from vae_code import fold
from vae_words import words_of

from vae_lab.records import CLAIM_MIME, CLASSES, INK, MIME, PAPER, PLAY_MIME, PROVENANCE_MIME
from vae_lab.wording import claim_box, provenance_box

# The theme's colours in dark mode, of text and background.
DARK_INK, DARK_PAPER = "#ced6dd", "#121212"

BOXES = {CLAIM_MIME: claim_box, PROVENANCE_MIME: provenance_box}

# Two colours of lines are too dim on dark paper.
DARK = {INK: DARK_INK, PAPER: DARK_PAPER, "#0072b2": "#4b8bea", "#8800ee": "#b366ff"}
COLOURS = re.compile("|".join(DARK), re.IGNORECASE)
PICTURE = re.compile(r"data:image/png;base64,\s*([A-Za-z0-9+/=\s]+)")
POSITION = re.compile(r' (?:d|x|y)="[^"]*"')
# Sizes of text: in drawings by matplotlib, which writes outlines of 100 units, and in those by hand.
TEXT = re.compile(r'scale\((0?\.\d+) -\1\)|font-size="(\d+)"')
LEGIBLE = 7  # pixels, the least height of text in a figure

# A hyphen before a number, as Python prints it, and the space inside an interval. What is no text, or is code
# or TeX, comes first and stays.
TYPED = re.compile(
    r'<(pre|code|script|style)\b.*?</\1>|<(span|div) class="math .*?</\2>|<[^>]*>'
    r"|(?P<minus>(?<![\w.)])-(?=\.?\d))|(?P<gap>(?<=[\d%]), (?=[+−-]?[\d.]+%?\]))",
    re.DOTALL,
)
PRINTED = {"minus": "−", "gap": ",\N{NO-BREAK SPACE}"}

# As pandas writes it, with its styles and without.
TABLE = re.compile(r'<table\b[^>]* (id="T_|class="dataframe).*?</table>', re.DOTALL)

PATH = re.compile(r'(?<=<span class="pre">)\w+/[\w./]+(?=</span>)')

FORMULA = r'(<span class="math [^>]*>[^<]*</span>)'

LAUNCH = """\
Or install nothing: the rocket at the top of a chapter opens it on Binder, where everything is there, or on
Colab. There, run `%pip install "vae-lab[lab] @ git+{address}"` in a cell of its own first."""

SWITCHED = {"only-light", "only-dark", "dark-light"}


def _channels(colour: str) -> NDArray[np.float64]:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], dtype=float)


def as_png(pixels: NDArray[np.uint8]) -> str:
    """A picture (height, width, 4) as a PNG in a data address, with a palette where it has few colours: about
    a third of the bytes that matplotlib writes for the same pixels."""
    height, width, _ = pixels.shape
    colours, index = np.unique(pixels.reshape(-1, 4), axis=0, return_inverse=True)
    image = Image.fromarray(pixels)
    if len(colours) <= 256:
        image = Image.fromarray(index.reshape(height, width).astype(np.uint8), "P")
        if (colours[:, 3] == 255).all():
            image.putpalette(colours[:, :3].tobytes())
        else:
            image.putpalette(colours.tobytes(), "RGBA")
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def pictures(svg: str) -> dict[str, NDArray[np.uint8]]:
    """The pictures inside `svg`: data address -> pixels (height, width, 4)."""
    found = {}
    for match in PICTURE.finditer(svg):
        with Image.open(io.BytesIO(base64.b64decode(match[1]))) as image:
            found[match[0]] = np.asarray(image.convert("RGBA"))
    return found


def slim(svg: str) -> str:
    """`svg` with less to transfer: positions to a hundredth of a point, pictures packed, and a look that many
    points share written once."""
    svg = POSITION.sub(lambda place: re.sub(r"(\.\d\d)\d+", r"\1", place[0]), svg)
    looks = Counter(re.findall(r' style="([^"]*)"', svg))
    for i, look in enumerate(look for look, points in looks.items() if points > 20 and "</style>" in svg):
        svg = svg.replace(f' style="{look}"', f' class="look{i}"')
        svg = svg.replace("</style>", f".look{i}{{{look}}}</style>", 1)
    for address, pixels in pictures(svg).items():
        svg = svg.replace(address, as_png(pixels))
    return svg


def darken_pictures(svg: str) -> str:
    """`svg` with the grey pictures in it mapped from ink on paper to dark ink on dark paper.

    All of them or none, so that the pictures of one figure stay comparable: only if together they are more
    paper than ink. Coloured pictures stay as they are.
    """
    grey = {}
    for address, pixels in pictures(svg).items():
        visible = pixels[pixels[..., 3] > 0][:, :3]
        if visible.size and np.ptp(visible, axis=1).max() <= 12:
            grey[address] = pixels
    seen = [pixels[pixels[..., 3] > 0][:, :3].mean() for pixels in grey.values()]  # what is not is padding
    if not grey or np.mean(seen) < 128:
        return svg
    ink = _channels(INK).mean()
    for address, pixels in grey.items():
        light = np.clip((pixels[..., :3].mean(-1, keepdims=True) - ink) / (255 - ink), 0, 1)
        dark = _channels(DARK_INK) * (1 - light) + _channels(DARK_PAPER) * light
        turned = np.concatenate([dark, pixels[..., 3:]], -1).round().astype(np.uint8)
        svg = svg.replace(address, as_png(turned))
    return svg


def darken(svg: str) -> str:
    """`svg` with ink and paper of the light theme replaced by those of the dark one."""
    svg = COLOURS.sub(lambda match: DARK[match[0].lower()], svg)
    # What has no fill of its own is black by default, and matplotlib writes no fill where it draws black.
    svg = svg.replace("<svg ", f'<svg fill="{DARK_INK}" ', 1)
    return darken_pictures(svg)


class drawing(nodes.image):
    """An SVG image. Its `room`, (width, height) in pixels, is known to the page before it is loaded, which
    can be late; `least` is the width at which its text can still be read."""


def visit_drawing(writer: Any, node: drawing) -> None:
    source = f"{writer.builder.imgpath}/{quote(writer.builder.images[node['uri']])}"
    look = dict(zip(("width", "height"), node["room"], strict=True))
    look["style"] = f"min-width: {node['least']}px; {writer.image_size(node)}".strip()
    writer.body.append(
        writer.emptytag(node, "img", "", src=source, alt=node.get("alt", ""), loading="lazy", **look)
    )
    raise nodes.SkipNode


def as_drawing(image: nodes.image, svg: str, app: Sphinx) -> drawing:
    """The image with `svg` as its content, in a file named by that."""
    folder = Path(app.outdir).parent / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{hashlib.sha256(svg.encode()).hexdigest()[:16]}.svg"
    file.write_text(svg, "utf-8")
    (head,) = re.findall(r"<svg\s[^>]*>", svg)[:1]
    width, height = map(float, re.findall(r'viewBox="[\d.]+ [\d.]+ ([\d.]+) ([\d.]+)"', head)[0])
    # Matplotlib draws in points, of which 3 are 4 pixels.
    unit = 4 / 3 if re.search(r'\swidth="[\d.]+pt"', head) else 1
    drawn = drawing(image.rawsource, **deepcopy(image.attributes))
    drawn["uri"] = "/" + Path(os.path.relpath(file, app.srcdir)).as_posix()
    drawn["room"] = round(unit * width), round(unit * height)
    sizes = [100 * float(outline) if outline else float(written) for outline, written in TEXT.findall(svg)]
    drawn["least"] = ceil(min(unit * width, LEGIBLE * width / min(sizes))) if sizes else 0
    return drawn


def add_dark_twins(app: Sphinx, doctree: nodes.document) -> None:
    """Show every ink-on-paper SVG of a page by two images, of which the theme displays one.

    Runs before Sphinx collects the images, so that it copies them like any other.
    """
    page = Path(app.env.doc2path(app.env.docname)).parent
    for image in list(doctree.findall(nodes.image)):
        uri = image["uri"]
        if not uri.endswith(".svg") or "://" in uri or SWITCHED & set(image["classes"]):
            continue
        source = Path(app.srcdir) / uri.lstrip("/") if uri.startswith("/") else page / uri
        if not source.is_file():
            continue  # Sphinx itself reports a missing image
        svg = slim(source.read_text("utf-8"))
        light = as_drawing(image, svg, app)
        # The wrapper keeps the caption from being a sibling: the theme hides captions after a hidden image.
        wrapper = nodes.inline(classes=["light-or-dark"])
        wrapper += light
        if COLOURS.search(svg):
            dark = as_drawing(image, darken(svg), app)
            light["classes"].append("only-light")
            dark["classes"].append("only-dark")
            wrapper += dark
        image.parent.replace(image, wrapper)


def play_data(figure: str, play: Mapping[str, Any], words: Mapping[str, str]) -> str:
    """The data of a playable figure as an element of its page: inert, until a script reads it."""
    text = json.dumps(play["data"], separators=(",", ":"), ensure_ascii=False).replace("<", r"\u003c")
    kind, own = play["kind"], html.escape(json.dumps(words, ensure_ascii=False))
    return (
        f'<script type="application/json" class="vae-play-data" data-kind="{kind}" data-figure="{figure}" '
        f'data-words="{own}">{text}</script>'
    )


def prepare_notebook(app: Sphinx, docname: str, content: list[str]) -> None:
    """Leave out of an executed notebook what is not for readers of the page.

    That is papermill's cell of changed parameters, since the provenance under the chapter lists them all,
    and the machine-readable copies of claims and provenance, which myst_nb would warn about: the boxes are
    made of them, in the words of the book. The data of a playable figure become a part of the page. Code that
    is folded away is behind one bar for each result.
    """
    if not app.env.doc2path(docname).endswith(".ipynb"):
        return
    notebook, words = json.loads(content[0]), words_of(app)
    cells, notebook["cells"] = fold(notebook["cells"], words["code"]), []
    for cell in cells:
        if "injected-parameters" in cell["metadata"].get("tags", []):
            continue
        notebook["cells"].append(cell)
        plays = [o["data"][PLAY_MIME] for o in cell.get("outputs", []) if PLAY_MIME in o.get("data", {})]
        for play in plays:
            # After the cell: myst_nb would make a figure, with the same name, of every output in it.
            cell["outputs"] = [o for o in cell["outputs"] if PLAY_MIME not in o.get("data", {})]
            source = play_data(cell["metadata"]["mystnb"]["figure"]["name"], play, words["play"])
            raw = {"cell_type": "raw", "id": f"{cell['id']}-play", "metadata": {"format": "text/html"}}
            notebook["cells"].append(raw | {"source": source})
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            for mime, box in BOXES.items():
                if mime in data:
                    data["text/html"] = box(data[mime], words)
            for mime in [mime for mime in data if mime.startswith(MIME)]:
                del data[mime]
    content[0] = json.dumps(notebook)


def choose_mathjax(app: Sphinx, config: Config) -> None:
    """Load only the parts of MathJax that the book uses (`mathjax3_config`), not its menu."""
    config.mathjax_path = "mathjax/startup.js"


def offer_repository(app: Sphinx, config: Config) -> None:
    """Switch on what needs the repository's address, once `repository.url` holds one."""
    options = config.html_theme_options
    address = options.get("repository_url")
    config.myst_substitutions = {"launch": LAUNCH.format(address=address) if address else ""}
    if not address:
        return
    options |= {"use_repository_button": True, "use_issues_button": True}
    options["launch_buttons"] = {
        "notebook_interface": "jupyterlab",
        "binderhub_url": "https://mybinder.org",
        "colab_url": "https://colab.research.google.com",
    }


def mark_words(table: re.Match[str]) -> str:
    """A table, with the class `vae-words` on the cells of each column that has words instead of numbers."""
    soup = BeautifulSoup(table[0], "html.parser")
    rows = [row(["td", "th"])[::-1] for row in soup("tr")]  # from the right: on the left, cells span rows
    for column in zip_longest(*rows):
        cells = [cell for cell in column if cell and not cell.has_attr("colspan")]
        texts = {cell.get_text(strip=True) for cell in cells if cell.name == "td"} - {"", "–"}
        if texts and all(text[0].isalpha() for text in texts):
            for cell in cells:
                cell["class"] = [*cell.get("class", []), "vae-words"]
    return str(soup)


def mend_page(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Correct what the theme and docutils get wrong in a page."""
    if "body" in context:
        # A list has list items; screen readers would not announce docutils' bibliography as a list.
        body = context["body"].replace('role="doc-biblioentry"', 'role="listitem"')
        # Cells that open and close carry a visible text, which this label would hide from screen readers.
        body = body.replace(' aria-label="Toggle hidden content"', "")
        # The empty corner of pandas' tables is the heading of nothing.
        body = re.sub(r"<th([^>]*)>(\s|&nbsp;)*</th>", r"<td\1></td>", body)
        body = TABLE.sub(mark_words, body)
        body = TYPED.sub(lambda found: PRINTED.get(str(found.lastgroup), found[0]), body)
        # A browser may break the line after a formula, and before the full stop that ends its sentence.
        body = re.sub(FORMULA + "([.,;:?!)]+)", r'<span class="vae-together">\1\2</span>', body)
        # A path breaks between its words.
        body = PATH.sub(lambda path: re.sub(r"(?<=[/_])(?=\w)", "<wbr>", path[0]), body)
        # An option does not break after its hyphens.
        context["body"] = re.sub(r'(<span class="pre)(">[^<]{1,24}</span>)', r"\1 vae-together\2", body)
    # Launch notebooks/03_vae.ipynb, the file of the repository, not chapters/03_vae.ipynb of the build.
    for group in context.get("header_buttons", []):
        for button in group.get("buttons", []):
            if "chapters/" in button.get("url", "") and button.get("text") in {"Binder", "Colab"}:
                button["url"] = button["url"].replace("chapters/", "notebooks/")


def add_players(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Load the scripts of a page's playable figures, and the colours of all figures, on that page only."""
    kinds = re.findall(r'class="vae-play-data" data-kind="(\w+)"', context.get("body", ""))
    if not kinds:
        return
    colours = "".join(f"--vae-palette-{i}: {colour};" for i, colour in enumerate(CLASSES))
    context["metatags"] = f"{context.get('metatags', '')}<style>:root {{{colours}}}</style>"
    app.add_css_file("play/play.css")
    for script in ("play", *dict.fromkeys(kinds)):
        app.add_js_file(f"play/{script}.js", loading_method="defer")


def setup(app: Sphinx) -> dict[str, Any]:
    app.setup_extension("vae_words")
    app.add_node(drawing, html=(visit_drawing, None))
    app.connect("config-inited", choose_mathjax)
    app.connect("config-inited", offer_repository)
    app.connect("source-read", prepare_notebook)
    app.connect("doctree-read", add_dark_twins, priority=400)
    app.connect("html-page-context", add_players)
    app.connect("html-page-context", mend_page, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
