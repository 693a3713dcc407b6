"""Reads what is meant to be a notebook, however it was saved (in the process of `reader_child`).

Browsers, editors and learning platforms strip metadata, change encodings, cut files off and put
other things under the name .ipynb. What can be read is read; what cannot has a status in words.
"""

import codecs
import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from course_tools.grading.extract_answer import Program, is_stub, read_program

#: Most bytes of a notebook.
MAX_NOTEBOOK = 50 * 10**6
#: Most cells of a notebook, most letters of all its code, and of what one answer depends on.
MAX_CELLS, MAX_CODE, MAX_ANSWER = 5_000, 1_000_000, 400_000
#: What a file under a notebook's name may be instead, by how it begins.
_OTHERS = (
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a zip file or an office document"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"\x80\x04", "a pickle"),
)
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
#: A heading of an exercise, or the call of its check.
_TITLE = re.compile(r"""^## +(\d+\.\w+) |\bcheck\(\s*["'](\d+\.\w+)""", re.MULTILINE)


class NotANotebookError(ValueError):
    """A file that cannot be read as a notebook; the message is its status."""


@dataclass(frozen=True)
class Known:
    """What the course's own notebooks hold.

    Attributes:
        exercises: number -> chapter and name of the answer.
        lessons: digest of a lesson's code cell -> the lesson.
    """

    exercises: Mapping[str, tuple[int, str]]
    lessons: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As `from_json` reads it."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Known":
        """As `to_json` wrote it."""
        exercises = {
            number: (chapter, name) for number, (chapter, name) in data["exercises"].items()
        }
        return cls(exercises, data["lessons"])


@dataclass(frozen=True)
class Cell:
    """A cell of code, or of text while a notebook is read.

    Attributes:
        is_code: whether it is a code cell.
        source: its text.
        exercise: number of the exercise that its metadata names, or "".
        python: of code, what runs: magics are calls of `get_ipython()`, "" if it is not Python.
    """

    is_code: bool
    source: str
    exercise: str = ""
    python: str = ""


@dataclass(frozen=True)
class Answer:
    """What a notebook holds for one exercise.

    Attributes:
        source: the answer with what it depends on, or None.
        wrong: why there is none, where something was written; or "".
        done: whether it is more than the stub.
        cell: place of the cell of its check among those of code.
    """

    source: str | None
    wrong: str = ""
    done: bool = False
    cell: int = -1


@dataclass(frozen=True)
class Notebook:
    """A notebook, as far as grading needs it.

    Attributes:
        chapter: whose exercises it answers, None if it is a lesson or something else.
        lesson: the lesson that it is, or "".
        cells: of code.
        answers: by exercise.
    """

    chapter: int | None
    lesson: str = ""
    cells: Sequence[Cell] = ()
    answers: Mapping[str, Answer] = field(default_factory=dict)


def read_notebook(data: bytes, known: Known) -> Notebook:
    """A notebook and its answers.

    Args:
        data: the file.
        known: the course's own notebooks.

    Raises:
        NotANotebookError: if it is no notebook, or one without cells, or far too long.
    """
    cells = read_cells(data)
    code = tuple(cell for cell in cells if cell.is_code)
    lesson = lesson_of(cells, known)
    if lesson:
        return Notebook(None, lesson)
    program = read_program([cell.source for cell in code])
    chapter = chapter_of(cells, program, known)
    if chapter is None:
        return Notebook(None)
    names = {n: name for n, (of, name) in known.exercises.items() if of == chapter}
    answers = {
        number: replace(_answer(program, name), cell=program.check_cell(number, name))
        for number, name in names.items()
    }
    runs = zip(code, program.cells, strict=True)
    return Notebook(chapter, "", tuple(replace(cell, python=text) for cell, text in runs), answers)


def read_cells(data: bytes) -> tuple[Cell, ...]:
    """The cells of a notebook, whatever wrote it.

    Args:
        data: the file, of format 3 or 4, in UTF-8, UTF-16, UTF-32 or Latin-1.

    Raises:
        NotANotebookError: if it is no notebook, or one without cells, or far too long.
    """
    tree = _json(data)
    if not isinstance(tree, dict):
        raise NotANotebookError("not a notebook: JSON, but no cells")
    cells = tuple(_cell(cell) for cell in _raw_cells(tree) if isinstance(cell, dict))
    letters = sum(len(cell.source) for cell in cells if cell.is_code)
    if not cells:
        raise NotANotebookError("a notebook without cells")
    if len(cells) > MAX_CELLS or letters > MAX_CODE:
        raise NotANotebookError(f"too long: {len(cells)} cells, {letters} letters")
    return cells


def chapter_of(cells: Sequence[Cell], program: Program, known: Known) -> int | None:
    """Which chapter a notebook answers: by its cells' metadata, else by the names that it defines.

    Args:
        cells: as from `read_cells`.
        program: what its code defines.
        known: the exercises.

    Returns:
        The chapter whose exercises are most, or None. Where names belong to several chapters,
        headings such as "## 5.2 ..." and calls such as check("5.2", ...) decide.
    """
    chapters = {number: chapter for number, (chapter, _) in known.exercises.items()}
    marked = Counter(chapters[cell.exercise] for cell in cells if cell.exercise in chapters)
    if marked:
        return max(marked, key=lambda chapter: (marked[chapter], -chapter))
    names = program.names()
    defined = Counter(chapter for chapter, name in known.exercises.values() if name in names)
    if not defined:
        return None
    text = "\n".join(cell.source for cell in cells)
    numbers = [found[1] or found[2] for found in _TITLE.finditer(text)]
    titles = Counter(chapters[n] for n in numbers if n in chapters)
    return max(defined, key=lambda chapter: (defined[chapter], titles[chapter], -chapter))


def lesson_of(cells: Sequence[Cell], known: Known) -> str:
    """The lesson that a notebook is, "" if it is none: most of its code stands in that lesson."""
    if any(cell.exercise in known.exercises for cell in cells):
        return ""
    code = [cell.source for cell in cells if cell.is_code and cell.source.strip()]
    found = Counter(filter(None, (known.lessons.get(digest(source)) for source in code)))
    name, count = found.most_common(1)[0] if found else ("", 0)
    return name if count >= 3 and 2 * count > len(code) else ""


def digest(source: str) -> str:
    """By what a lesson's cell is known again, wherever blanks were added or lost."""
    return hashlib.sha256("".join(source.split()).encode("utf-8", "replace")).hexdigest()[:16]


def _answer(program: Program, name: str) -> Answer:
    try:
        source = program.answer(name)
    except (ValueError, RecursionError) as error:
        return Answer(None, f"the grader cannot follow it ({type(error).__name__}: {error})"[:300])
    if source is None:
        return Answer(None, program.mentions(name) or "")
    if len(source) > MAX_ANSWER:
        return Answer(None, f"too long: {len(source)} letters")
    written = any(name in s.defines and not is_stub(s.node) for s in program.statements)
    return Answer(source, done=written)


def _json(data: bytes) -> Any:
    if not data.strip():
        raise NotANotebookError("an empty file")
    for start, what in _OTHERS:
        if data.startswith(start):
            raise NotANotebookError(f"not a notebook: {what}")
    text = _decoded(data).lstrip("\ufeff \t\r\n\0")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise NotANotebookError(_not_json(text, error)) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise NotANotebookError(f"not a notebook ({type(error).__name__})") from None


def _not_json(text: str, error: json.JSONDecodeError) -> str:
    start = text[:200].lower()
    if start.startswith(("<!doctype", "<html", "<?xml", "<")):
        return "not a notebook: a web page"
    if not start.startswith(("{", "[")):
        return "not a notebook: some other text"
    rest = text[error.pos :].strip()
    if not rest or error.msg.startswith("Unterminated"):
        return f"cut off: the file ends in the middle, in line {error.lineno}"
    return f"damaged: it is no longer JSON in line {error.lineno}"


def _decoded(data: bytes) -> str:
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return data.decode(encoding, "replace")
    head = data[:200]
    if head.count(0) > len(head) // 4:  # UTF-16 without its mark
        return data.decode("utf-16-be" if head[:1] == b"\0" else "utf-16-le", "replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _raw_cells(tree: dict[str, Any]) -> list[Any]:
    cells = tree.get("cells")
    if isinstance(cells, list):
        return cells
    sheets = tree.get("worksheets")  # format 3
    if isinstance(sheets, list):
        inside = [s.get("cells") for s in sheets if isinstance(s, dict)]
        return [cell for cells in inside if isinstance(cells, list) for cell in cells]
    raise NotANotebookError("not a notebook: JSON, but no cells")


def _cell(cell: dict[str, Any]) -> Cell:
    source = cell.get("source", cell.get("input", ""))
    if isinstance(source, list):
        source = "".join(part for part in source if isinstance(part, str))
    if not isinstance(source, str):
        source = ""
    metadata = cell.get("metadata")
    return Cell(
        is_code=cell.get("cell_type") == "code",
        # Halves of surrogate pairs are legal in JSON and nowhere else.
        source=source.encode("utf-8", "replace").decode(),
        exercise=_exercise(metadata) if isinstance(metadata, dict) else "",
    )


def _exercise(metadata: dict[str, Any]) -> str:
    """The exercise that a cell answers, by nbgrader's name of the cell or by our own entry."""
    grading = metadata.get("nbgrader")
    name = grading.get("grade_id") if isinstance(grading, dict) else None
    found = re.fullmatch(r"answer-(\d+)-(\w+)", name) if isinstance(name, str) else None
    return f"{found[1]}.{found[2]}" if found else str(metadata.get("exercise", ""))[:20]
