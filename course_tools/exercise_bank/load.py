"""Everything that teachers hold about the exercises, read from `solutions/`.

Sources (task and solution), visible claims, hidden checks, misconceptions and accepted answers,
one file a chapter each. Nothing of this is in what students get.
"""

import ast
import importlib.util
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import jupytext
from nbformat import NotebookNode

from course_lib.checks import run as checks_run
from course_lib.checks.script import Case
from course_tools.exercise_bank.claims import Hidden, Misconception

# Kernels of exercise 7.5 run in Triton's interpreter, which must be chosen before its import.
os.environ.setdefault("TRITON_INTERPRET", "1")

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"


@dataclass(frozen=True)
class VisibleClaim:
    """One line of a visible check.

    Args:
        says: the claim in words, as the student reads it.
        cases: the scripts; few and small.
        compare: "equal", "close", "mask" (equal and bool) or "property:NAME" (a function of
            `course_lib.checks.properties`).
        rtol: of "close".
        atol: of "close".
        digits: decimals that count in the digest of a value exercise.
        labels: names of positions for messages ("row 2 (sat)"); masks of up to five positions
            get the running example's tokens if none are given.
    """

    says: str
    cases: Sequence[Case]
    compare: str = "equal"
    rtol: float = 1e-4
    atol: float = 1e-5
    digits: int = 3
    labels: Sequence[str] = ()


@dataclass(frozen=True)
class Visible:
    """The visible check of one exercise.

    Args:
        exercise: its number.
        claims: in the order in which they are shown.
        again: what to read again, "notebooks/02_tril_mask.ipynb#Build-it-four-ways".
        needs: a module without which the check is skipped, such as "triton".
        results: what the task calls the parts of a tuple that is returned.
    """

    exercise: str
    claims: Sequence[VisibleClaim]
    again: str = ""
    needs: str = ""
    results: Sequence[str] = ()


@dataclass(frozen=True)
class Question:
    """A concept question.

    Args:
        number: "5.A".
        right: the letter of the right option.
        options: letter -> why it is, or is not, the answer.
    """

    number: str
    right: str
    options: Mapping[str, str]


@dataclass(frozen=True)
class ExerciseFacts:
    """What its source says about an exercise.

    Attributes:
        number: "5.2".
        answer: the name that the student defines.
        points: in all.
        minutes: for a student of the chapter.
        difficulty: 1 to 3.
        path: "core" or "stretch".
        chapter: number of the chapter.
        source: the answer cell, solution included.
        title: the words of its heading.
        imports: the import statements of the chapter's other cells.
    """

    number: str
    answer: str
    points: int
    minutes: int
    difficulty: int
    path: str
    chapter: int
    source: str
    title: str
    imports: str = ""


@dataclass
class Bank:
    """The exercises of the chapters that were loaded, everything by exercise number."""

    root: Path
    exercises: dict[str, ExerciseFacts] = field(default_factory=dict)
    visible: dict[str, Visible] = field(default_factory=dict)
    hidden: dict[str, Hidden] = field(default_factory=dict)
    misconceptions: dict[str, list[Misconception]] = field(default_factory=dict)
    accepted: dict[str, list[object]] = field(default_factory=dict)
    questions: dict[str, Question] = field(default_factory=dict)

    def solution(self, number: str) -> Any:
        """Our own answer: its cell, run in a fresh namespace after the imports."""
        facts = self.exercises[number]
        return run_source(f"{facts.imports}\n{facts.source}", facts.answer, f"<solution {number}>")


def run_source(source: str, name: str, filename: str) -> Any:
    """What a text defines under a name.

    Args:
        source: Python.
        name: of the answer.
        filename: under which tracebacks and `inspect` find the text.
    """
    module = re.sub(r"\W+", "_", filename).strip("_")
    return checks_run.run_source(source, filename, module)[name]


def exercise_sources(root: Path) -> dict[int, Path]:
    """The sources (`solutions/NN_name.py`) that exist, by chapter number."""
    files = sorted((root / "solutions").glob("[0-9][0-9]_*.py"))
    return {int(file.name[:2]): file for file in files}


def load_bank(root: Path, chapters: Sequence[int] | None = None) -> Bank:
    """Read the exercises.

    Args:
        root: the folder of pyproject.toml.
        chapters: numbers; all that have a source if not given.

    Raises:
        ValueError: if two exercises have one number, or a file speaks of an unknown one.
    """
    bank = Bank(Path(root))
    found = exercise_sources(bank.root)
    for chapter in found if chapters is None else chapters:
        _load_source(bank, chapter, found[chapter])
        parts = {
            kind: _module(bank.root / "solutions" / kind / f"chapter_{chapter}.py")
            for kind in ("visible", "hidden", "misconceptions", "accepted")
        }
        bank.visible |= _by(getattr(parts["visible"], "VISIBLE", []), "exercise")
        bank.questions |= _by(getattr(parts["visible"], "QUESTIONS", []), "number")
        bank.hidden |= _by(getattr(parts["hidden"], "HIDDEN", []), "exercise")
        for misconception in getattr(parts["misconceptions"], "MISCONCEPTIONS", []):
            bank.misconceptions.setdefault(misconception.exercise, []).append(misconception)
        for number, answers in getattr(parts["accepted"], "ACCEPTED", {}).items():
            bank.accepted[number] = list(answers)
    known = set(bank.exercises)
    for kind in ("visible", "hidden", "misconceptions", "accepted"):
        unknown = sorted(set(getattr(bank, kind)) - known)
        if unknown:
            raise ValueError(f"solutions/{kind}: no chapter has exercise {', '.join(unknown)}")
    return bank


def read_exercise_source(file: Path) -> NotebookNode:
    """A source as a notebook, cell metadata included."""
    return jupytext.reads(file.read_text("utf-8"), fmt="py:percent")


def _load_source(bank: Bank, chapter: int, file: Path) -> None:
    cells = read_exercise_source(file).cells
    imports = "\n".join(
        ast.unparse(node)
        for cell in cells
        if cell.cell_type == "code" and "exercise" not in cell.metadata
        for node in ast.parse(cell.source).body
        if isinstance(node, (ast.Import, ast.ImportFrom))
    )
    title = ""
    for cell in cells:
        heading = re.match(r"## +(\S+) (.+)", cell.source)
        if cell.cell_type == "markdown" and heading:
            title = heading[2]
        if "exercise" not in cell.metadata:
            continue
        meta = cell.metadata
        number = str(meta["exercise"])
        if number in bank.exercises:
            raise ValueError(f"{file.name}: exercise {number} stands twice")
        bank.exercises[number] = ExerciseFacts(
            number=number, answer=meta["answer"], points=int(meta["points"]),
            minutes=int(meta["minutes"]), difficulty=int(meta["difficulty"]), path=meta["path"],
            chapter=chapter, source=cell.source, title=title, imports=imports,
        )  # fmt: skip


def _by(items: Sequence[Any], name: str) -> dict[str, Any]:
    found = {getattr(item, name): item for item in items}
    if len(found) != len(items):
        raise ValueError(f"solutions: two entries for one {name} among {', '.join(found)}")
    return found


def _module(file: Path) -> ModuleType | None:
    if not file.is_file():
        return None
    name = f"solutions_{file.parent.name}_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
