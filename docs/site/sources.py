"""What the book is made of: copies of the course's notebooks, and the pages around them.

`write_sources` fills a folder that Sphinx can read. Nothing is executed: chapters and exercises
are the committed notebooks with their saved results. Solutions and what teachers read stay out.
"""

import html
import importlib.util
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat

from course_lib.figures.palette import DARK, LIGHT, css_variables
from course_tools.build.minutes import minutes_of
from course_tools.project import Chapter, Project

HERE = Path(__file__).parent
#: The badge that `course build` puts below each title; the book has a plain link in its place.
_BADGE = re.compile(r"\[!\[Open in Colab\]\([^)]*\)\]\(([^)]*)\)")
#: The page of what the course cites; sphinxcontrib-bibtex reads references.bib.
_REFERENCES = """\
# References

What the chapters cite, by first author.

```{bibliography}
:all:
:list: bullet
```
"""
#: The API pages: heading, what stands below it, modules.
LIBRARY = (
    (
        "masks",
        "Masks and the example",
        ("masks.rule", "masks.builtin", "masks.conventions", "example"),
    ),
    ("attention", "Attention, caches, costs", ("attention", "trace", "cache", "costs")),
    (
        "models",
        "Language, models, generation",
        ("language", "gpt", "decoder", "rotary", "gpt2", "training", "generation", "sampling"),
    ),
    ("leaks", "Finding leaks", ("leaks.influence", "leaks.audit")),
    ("flash", "Attention without the matrix", ("flash.tiled", "flash.available", "flash.ring")),
    (
        "pages",
        "Pictures and notebooks",
        ("figures.plot", "figures.traces", "explorers", "lesson", "checks"),
    ),
)


@dataclass(frozen=True)
class Part:
    """One entry of the contents: a heading and the pages below it.

    Attributes:
        title: the heading.
        pages: names of pages, without their ending.
    """

    title: str
    pages: tuple[str, ...]


def write_sources(project: Project, folder: Path, *, for_print: bool = False) -> None:
    """Write everything that Sphinx reads, and nothing else, into an empty folder.

    Args:
        project: the course.
        folder: where to; what is there is deleted.
        for_print: one document in reading order, without what only a screen can use.

    Raises:
        FileNotFoundError: if a notebook was not built yet.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for page in notebooks(project):
        source = project.root / f"{page}.ipynb"
        if not source.is_file():
            raise FileNotFoundError(f"{page}.ipynb is not there; run `course build` first")
        notebook = nbformat.read(source, as_version=4)
        _adapt(notebook, page, project, for_print)
        target = folder / f"{page}.ipynb"
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, target)
    (folder / "references.md").write_text(_REFERENCES, "utf-8")
    _write_mathjax(folder / "static" / "_static" / "mathjax")
    if for_print:
        (folder / "index.md").write_text(_toctrees(print_parts(project)), "utf-8")
        _write_fonts(folder / "static" / "_static" / "fonts")
        return
    (folder / "index.md").write_text(front(project), "utf-8")
    _write_library(folder / "library")
    (folder / "images").mkdir()
    shutil.copy(project.root / "docs" / "images" / "sat.png", folder / "images")
    _write_static(project, folder / "static")


def notebooks(project: Project) -> Iterator[str]:
    """Every notebook of the book, as "notebooks/02_tril_mask", in the order of the chapters."""
    yield from (notebook.page for notebook in project.notebooks)
    yield from (page for chapter in project.chapters if (page := exercises(project, chapter)))


def exercises(project: Project, chapter: Chapter) -> str | None:
    """The page of a chapter's exercises, or None where it has none."""
    page = f"exercises/{chapter.name}"
    return page if (project.root / f"{page}.ipynb").is_file() else None


def parts(project: Project) -> list[Part]:
    """The contents of the site."""
    numbered = [c for c in project.notebooks if c.name[0].isdigit()]
    lettered = [c for c in project.notebooks if not c.name[0].isdigit()]
    tasks = [page for c in project.chapters if (page := exercises(project, c))]
    return [
        Part("Chapters", tuple(c.page for c in numbered)),
        Part("Appendices", tuple(c.page for c in lettered)),
        Part("Exercises", tuple(tasks)),
        Part("Papers", ("references",)),
        Part("The library", tuple(f"library/{name}" for name, _, _ in LIBRARY)),
    ]


def print_parts(project: Project) -> list[Part]:
    """The contents of the printed book: each chapter with its exercises behind it."""
    pages = []
    for chapter in project.chapters:
        pages += [chapter.page, *(more.page for more in project.deeper(chapter))]
        if task := exercises(project, chapter):
            pages.append(task)
    return [Part("", (*pages, "references"))]


# --- pages ---------------------------------------------------------------------------------------


def front(project: Project) -> str:
    """The first page: `front.md` with the table of chapters, and the contents for the sidebar."""
    text = (HERE / "front.md").read_text("utf-8").replace("../images/", "images/")
    return text.replace("@chapters", chapter_table(project)) + "\n" + _toctrees(parts(project))


def chapter_table(project: Project) -> str:
    """Chapters, what they answer, minutes and exercises, as Markdown."""
    lines = ["| No. | Chapter | What it answers | Minutes | Practice |", "|---|---|---|---|---|"]
    for chapter in project.notebooks:
        number = "" if chapter.is_more else chapter.number
        task = exercises(project, chapter)
        link = f"[exercises]({task}.ipynb)" if task else ""
        title = f"[{chapter.title}]({chapter.page}.ipynb)"
        minutes = minutes_of(project.root / chapter.source)
        lines.append(f"| {number} | {title} | {chapter.question} | {minutes} | {link} |")
    return "\n".join(lines)


def _toctrees(contents: list[Part]) -> str:
    blocks = []
    for part in contents:
        options = [":hidden:", *([f":caption: {part.title}"] if part.title else [])]
        blocks.append("\n".join(["```{toctree}", *options, "", *part.pages, "```"]))
    return "\n\n".join(blocks) + "\n"


def _write_library(folder: Path) -> None:
    folder.mkdir()
    for name, title, modules in LIBRARY:
        lines = [title, "=" * len(title), ""]
        for module in modules:
            heading = f"course_lib.{module}"
            lines += [heading, "-" * len(heading), "", f".. automodule:: {heading}"]
            lines += ["   :members:", ""]
        (folder / f"{name}.rst").write_text("\n".join(lines), "utf-8")


# --- notebooks -----------------------------------------------------------------------------------


def _adapt(notebook: nbformat.NotebookNode, page: str, project: Project, for_print: bool) -> None:
    """Leave out the setup cell, and make links of the badge."""
    notebook.cells = [c for c in notebook.cells if "setup" not in c.metadata.get("tags", [])]
    for cell in notebook.cells:
        if for_print and "hide-input" in cell.metadata.get("tags", []):
            cell.metadata.tags.append("remove-input")  # paper cannot unfold it
            cell.metadata.tags.remove("hide-input")
        if for_print and "check" in cell.metadata.get("tags", []):
            cell.outputs = []  # "not done yet"
        if cell is not notebook.cells[0] and cell.cell_type == "markdown":
            cell.source = re.sub(r"\A# ", "## ", cell.source)  # a page has one title
        if cell.cell_type == "markdown" and (badge := _BADGE.search(cell.source)):
            links = "" if for_print else _ways_in(page, badge[1], project)
            cell.source = cell.source.replace(badge[0], links).strip()


def _ways_in(page: str, colab: str, project: Project) -> str:
    folder, _, name = page.rpartition("/")
    file = html.escape(f"{name}.ipynb")
    links = [f"[Open in Colab]({colab})", f'<a href="{file}" download>Download the notebook</a>']
    other = "exercises" if folder == "notebooks" else "notebooks"
    if (project.root / other / f"{name}.ipynb").is_file():
        words = {"exercises": "Exercises of this chapter", "notebooks": "The chapter"}[other]
        links.append(f"[{words}](../{other}/{name}.ipynb)")
    return f"{' · '.join(links)}\n\n"


# --- files beside the pages ----------------------------------------------------------------------


def _write_static(project: Project, folder: Path) -> None:
    """The colours of the course, as CSS, and the notebooks to download."""
    static = folder / "_static"
    static.mkdir(parents=True, exist_ok=True)
    light, dark = (css_variables("--course-", theme) for theme in (LIGHT, DARK))
    colours = f'html {{ {light} }}\nhtml[data-theme="dark"] {{ {dark} }}\n'
    (static / "palette.css").write_text(colours, "utf-8")
    for page in notebooks(project):
        target = folder / f"{page}.ipynb"
        target.parent.mkdir(exist_ok=True)
        shutil.copy(project.root / f"{page}.ipynb", target)


def _write_mathjax(folder: Path) -> None:
    """The two parts of MathJax that a page uses, from the package that carries it."""
    source = _package("sphinx-mathjax-offline") / "static" / "mathjax"
    fonts = "output/chtml/fonts/woff-v2"
    folder.mkdir(parents=True)
    shutil.copy(source / "tex-chtml.js", folder)
    shutil.copytree(source / fonts, folder / fonts)


def _write_fonts(folder: Path) -> None:
    """What the printed book is set in: Source Serif, and the monospaced font of matplotlib."""
    folder.mkdir(parents=True)
    serif = _package("font_source_serif_pro") / "files"
    for style in ("Regular", "It", "Bold", "BoldIt"):
        shutil.copy(serif / f"SourceSerifPro-{style}.ttf", folder)
    mono = _package("matplotlib") / "mpl-data" / "fonts" / "ttf"
    for style in ("", "-Bold", "-Oblique"):
        shutil.copy(mono / f"DejaVuSansMono{style}.ttf", folder)


def _package(name: str) -> Path:
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        raise FileNotFoundError(f"{name} is not installed; run pip install -e '.[site]'")
    return Path(found.origin).parent
