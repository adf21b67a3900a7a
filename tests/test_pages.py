"""What the pages around the chapters say, and the code that they show."""

from __future__ import annotations

import ast
import pickle
import re
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from chapters import NOTEBOOKS
from pages import BOOK, code, sections
from reader import Visit

from vae_lab.records import parsed
from vae_workflow.pages import apart

EXERCISES = sections("exercises", level=3)


def test_exercises_are_numbered_and_graded() -> None:
    assert len(EXERCISES) >= 12
    assert [title.split(".")[0] for title in EXERCISES] == [str(i + 1) for i in range(len(EXERCISES))]
    grades = [re.match(r"\s*\*(Easy|Core|Stretch)\.\* ", text) for text in EXERCISES.values()]
    assert all(grades)
    assert {grade[1] for grade in grades if grade} == {"Easy", "Core", "Stretch"}


SOLUTION = re.compile(r"^:::\{dropdown\} Solution of exercise (\d+)\n", re.MULTILINE)
LINE = "= ...  # complete this line"


def solved(title: str) -> tuple[str, str, str]:
    """An exercise's question, the text of its solution, and the code of that."""
    question, number, solution = SOLUTION.split(EXERCISES[title])
    assert number == title.split(".")[0]
    (program,) = code(solution)
    return question, solution.replace(program, ""), program


def run(program: str, title: str) -> None:
    exec(compile(program, title, "exec"), {"__name__": "solution"})


@pytest.mark.parametrize("title", EXERCISES)
def test_the_solution_is_true(title: str) -> None:
    """Its code runs as written, within seconds, and checks what the text states: each number with a decimal
    point in the text is in the code, too."""
    _, text, program = solved(title)
    assert "\nassert " in program or "\n    assert " in program
    assert [number for number in re.findall(r"\d+\.\d+", text) if number not in program] == []
    start = time.process_time()
    run(program, title)
    assert time.process_time() - start < 20


TO_FILL_IN = [title for title, text in EXERCISES.items() if LINE in text]


def test_only_cells_to_fill_in_are_shown_with_a_question() -> None:
    assert len(TO_FILL_IN) >= 5
    assert [title for title in EXERCISES if code(solved(title)[0])] == TO_FILL_IN


@pytest.mark.parametrize("title", TO_FILL_IN)
def test_a_cell_to_fill_in_checks_itself(title: str) -> None:
    """The solution is the same cell with one line completed, and more after it; as it is, the cell fails in
    the lines that check."""
    question, _, program = solved(title)
    (cell,) = code(question)
    before, line, checks = re.split(rf"^(\w+ {re.escape(LINE)}.*\n)", cell, flags=re.MULTILINE)
    completed = re.escape(line.partition("=")[0]) + r"=.*\n"
    assert re.match(re.escape(before) + completed + re.escape(checks), program)
    with pytest.raises((AssertionError, TypeError, AttributeError)):
        run(cell, title)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_chapter_names_its_exercises_in_their_order(path: Path) -> None:
    addresses = re.findall(r"\((exercise-[\w-]+)\)=", (BOOK / "exercises.md").read_text("utf-8"))
    named = re.findall(r"\{ref}`(exercise-[\w-]+)`", path.read_text("utf-8"))
    assert named == sorted(named, key=addresses.index)


def test_every_exercise_has_an_address() -> None:
    """One that stays when exercises are added before it."""
    page = (BOOK / "exercises.md").read_text("utf-8")
    addresses = re.findall(r"^\((exercise-[a-z-]+)\)=\n### \d", page, re.MULTILINE)
    assert len(set(addresses)) == len(EXERCISES) == len(re.findall(r"^### \d", page, re.MULTILINE))


QUESTIONS = """\
How does the trick work, and why is it needed?
Is ε trained? Is epsilon a parameter?
Is the trick necessary to train a VAE?
Is sampling used in training, at test time, or both?
Why is μ + σε distributed as N(μ, σ²)?
Why not μ + σ, and why does a model without noise reconstruct better?
Why does the encoder output log σ² or log σ?
exp(logvar) or exp(½ logvar)?
(ε + μ)σ or σε + μ?
How do two identical heads become μ and log σ?
sample or rsample?
Which distributions can be reparameterized?
Uniform, Laplace, beta, mixture, truncated: can they be reparameterized?
How do I give my own distribution an rsample?
Can z have a full covariance?
What is the local reparameterization trick?
Why is the gradient of an expectation hard at all?
Does REINFORCE work too?
When should I use REINFORCE rather than the trick?
Why does the trick lower variance?
Does the trick always lower variance?
Is the trick biased, or is its gradient unbiased?
Why is σ's gradient noisier than μ's?
Is one sample enough?
What are sticking the landing (STL) and DReG?
Why not for discrete z?
Can one backpropagate through argmax, a categorical draw, or top-k?
Gumbel-softmax or straight-through?
What do Gumbel-softmax and its temperature cost?
Can continuous and discrete latents be mixed?
Dropout and mini-batches make gradients random, too: why is that no problem?
What if the simulator is chaotic or has jumps?
Why is my loss negative?
BCE: sum or average, over pixels and over the batch?
KL weight: sum or mean over dimensions and pixels?
A sigmoid in the decoder, with BCEWithLogits?
BCE or MSE, and what noise does MSE assume?
Why the KL to N(0, I)?
The KL: by its formula, or from draws?
Does minimising the KL cause collapse?
The KL goes to zero at once: what should I check?
Does a collapsed VAE come back?
How many latents does a VAE need?
Should log σ be clamped?
Same seed, same result? On a GPU?
β-VAE, normalizing flows, SAC: is it the same trick?
What does β do?
Are the latents disentangled, or interpretable?
Does a diffusion model (DDPM) use the reparameterization trick?
Does a VQ-VAE use it, and what is straight-through?
How do I make a conditional VAE?
Can the prior be learned?
Is the ELBO the log-likelihood? How is a VAE evaluated?
Blurry reconstructions or bad samples: which part is to blame?
Why are the images blurry?
At test time, μ or a sample? Do I need ε there?
Why can we generate from N(0, I)?""".splitlines()
ANSWERS = sections("faq", level=3)
PROOF = r"\{(?:numref|eq|doc|claim)\}`|\]\(#exercise-"
TO_RUN = re.compile(r"^:::\{dropdown\} Run it[^\n]*\n(.*?)^:::$", re.MULTILINE | re.DOTALL)
PROOFS = {question: TO_RUN.findall(text) for question, text in ANSWERS.items() if TO_RUN.search(text)}


def test_all_questions_are_asked_in_order() -> None:
    assert list(ANSWERS) == QUESTIONS


def test_every_question_has_an_address() -> None:
    page = (BOOK / "faq.md").read_text("utf-8")
    addresses = re.findall(r"^\((faq-[a-z-]+)\)=\n### ", page, re.MULTILINE)
    assert len(set(addresses)) == len(QUESTIONS)


@pytest.mark.parametrize("question", QUESTIONS)
def test_an_answer_is_short_and_points_to_its_proof(question: str) -> None:
    text = TO_RUN.sub("", ANSWERS[question])
    text = re.sub(r"^\(faq-[a-z-]+\)=$", "", text, flags=re.MULTILINE)  # the address of the next one
    assert ":::" not in text
    assert re.search(PROOF, text)
    words = re.sub(r"\{\w+\}`[^`]*`", "LINK", re.sub(r"\s+", " ", text)).strip()
    assert 2 <= len(re.findall(r"[.?!](?= [A-Z*\[$`]|$)", words)) <= 6
    without_formulas = re.sub(r"\$[^$]*\$|`[^`]*`", "", words)
    assert not re.search(r"\d+\.\d|\d\s*%", without_formulas), "results come by link"


@pytest.mark.parametrize("question", PROOFS)
def test_what_an_answer_offers_to_run_proves_it(question: str) -> None:
    (program,) = code("".join(PROOFS[question]))
    assert "assert " in program
    assert max(map(len, program.splitlines())) <= 88
    run(program, question)


CLAIMED = re.compile(r"\{claim\}`([^`]*)`")


def cited() -> list[tuple[str, str]]:
    """The claims that pages cite: page, and the words by which it finds the claim."""
    pages = [(path.stem, path.read_text("utf-8")) for path in sorted(BOOK.glob("*.md"))]
    found = [(page, words) for page, text in pages for words in CLAIMED.findall(text)]
    return [(page, re.sub(r"^.*<(.*)>$", r"\1", words)) for page, words in found]


def sentences() -> list[str]:
    """The sentences that chapters claim, as far as their source has them in one piece."""
    cells = [c.source for path in NOTEBOOKS for c in nbformat.read(path, as_version=4).cells]
    calls = [node for cell in cells if "claim(" in cell for node in ast.walk(parsed(cell))]
    first = [
        node.args[0]
        for node in calls
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "claim"
    ]
    return [str(node.value) if isinstance(node, ast.Constant) else ast.unparse(node) for node in first]


def test_claims_that_pages_cite_are_made() -> None:
    """Found by words of their sentence, each in one chapter: a claim that is reworded is cited anew."""
    made = sentences()
    assert len(made) > 80
    found = {(page, words): sum(words in sentence for sentence in made) for page, words in cited()}
    assert len(found) > 30
    assert {place: number for place, number in found.items() if number != 1} == {}


def test_the_glossary_is_complete_and_its_first_sentences_are_plain() -> None:
    """A first sentence is shown by itself, as text, where a term is used."""
    entries = re.findall(r"^(\S.*)\n  (\S.*)$", sections("glossary", level=1)["Glossary"], re.MULTILINE)
    assert len(entries) >= 45
    for term, text in entries:
        first = re.split(r"(?<=\.)\s", text)[0]
        assert first.endswith(".") and not set("${`") & set(first), term
        assert re.search(r"\{(?:numref|eq|doc|ref|py:func|py:mod)\}`", text), term


def test_a_term_is_explained_where_it_is_used(visit: Callable[[str], Visit]) -> None:
    """To the pointer, to the keyboard and to screen readers, until Escape."""
    page = visit("chapters/04_estimators").page
    link, note = page.locator("a:has(> .std-term)", has_text="baseline").first, page.locator("#definition")
    definition = (
        "A number that is subtracted from the cost in a score-function gradient to lower its variance."
    )
    assert link.get_attribute("aria-description") == definition
    link.scroll_into_view_if_needed()
    assert not note.is_visible()
    link.hover()
    assert note.is_visible() and note.inner_text() == definition
    note.hover()  # the note itself does not take it away
    page.wait_for_timeout(400)
    assert note.is_visible()
    page.keyboard.press("Escape")
    assert not note.is_visible()
    page.mouse.move(0, 0)
    before = page.locator("a:has(> .std-term)").first
    before.focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    assert note.is_visible()
    box, width = note.bounding_box(), page.viewport_size["width"]
    assert box and box["x"] >= 0 and box["x"] + box["width"] <= width
    before.blur()
    assert not note.is_visible()


def test_without_scripts_a_term_has_its_definition_as_title(quick_book: Path) -> None:
    links = re.findall(r"<a ([^>]*)><span class=\"[^\"]*std-term", (quick_book / "intro.html").read_text())
    assert len(links) >= 3
    assert [link for link in links if not re.search(r'title="[A-Z].{20,}\."', link)] == []


def test_solutions_are_closed_and_have_names_of_their_own(visit: Callable[[str], Visit]) -> None:
    solutions = visit("exercises").page.locator("details")
    names = [text.strip() for text in solutions.locator("summary").all_inner_texts()]
    assert names == [f"Solution of exercise {i + 1}" for i in range(len(EXERCISES))]
    assert solutions.locator("pre").first.is_visible() is False
    solutions.first.locator("summary").focus()
    solutions.first.locator("summary").press("Enter")
    assert solutions.locator("pre").first.is_visible()


def test_a_page_on_other_data_has_labels_of_its_own() -> None:
    """Of figures, equations and tables; those of other pages stay."""
    text = "# One\n\n$$\nx\n$$ (eq-x)\n\n```{table} T.\n:name: table-x\n```\n"
    text += "{eq}`eq-x` {numref}`table-x` {eq}`eq-y`"
    cells = [nbformat.v4.new_markdown_cell(text), nbformat.v4.new_code_cell("1")]
    cells[1].metadata["mystnb"] = {"figure": {"name": "fig-x"}}
    other = nbformat.reads(apart(nbformat.writes(nbformat.v4.new_notebook(cells=cells)), "b"), as_version=4)
    assert other.cells[0].source == (
        text.replace("# One", "# One: b").replace("eq-x", "eq-x-b").replace("table-x", "table-x-b")
    )
    assert other.cells[1].metadata.mystnb.figure.name == "fig-x-b"


def test_the_newest_change_is_this_version(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert next(iter(sections("changes"))) == project["version"]


def test_pages_with_terms_are_made_again_when_the_glossary_changes(quick_book: Path) -> None:
    with (quick_book.parent / ".doctrees" / "environment.pickle").open("rb") as file:
        dependencies = pickle.load(file).dependencies
    for page in ("intro", "chapters/03_vae"):
        assert "glossary.md" in {Path(path).name for path in dependencies[page]}
