"""From an exercise source to exercise notebook, solution notebook and data of the visible checks.

A source (`solutions/NN_name.py`) holds task, solution and check cell of every exercise. The
exercise notebook is the source without what stands between the solution marks; the solution
notebook is the source as it is. Both carry nbgrader's metadata (schema 3), so that a class on
JupyterHub can collect them. `course_lib/checks/data/chapter_N.json` holds what a right answer and
each known wrong one return on the visible inputs; for exercises that ask for a value, digests.
"""

import contextlib
import io
import json
import math
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from course_lib.checks import data as data_of_checks
from course_lib.checks import digest
from course_lib.checks.encode import encode, encode_outcome
from course_lib.checks.run import run_script
from course_lib.checks.script import Case, Outcome, to_plain
from course_tools.exercise_bank.claims import Misconception
from course_tools.exercise_bank.load import (
    BEGIN,
    END,
    Bank,
    ExerciseFacts,
    Visible,
    VisibleClaim,
    exercise_sources,
    load_bank,
    read_exercise_source,
)

_DIFFICULTY = {1: "easy", 2: "medium", 3: "hard"}
_BLOCK = re.compile(
    rf"^(?P<pad>[ ]*){re.escape(BEGIN)}[^\n]*\n.*?^[ ]*{re.escape(END)}[^\n]*$",
    re.DOTALL | re.MULTILINE,
)


def badge(source: Path, link: str, chapter: str = "") -> str:
    """The second cell: how much there is to do.

    Args:
        source: of the exercises.
        link: the Colab badge, "" for teachers.
        chapter: the address of the chapter on Colab, where no other file is at hand.
    """
    answers = _answers(read_exercise_source(source))
    points = sum(cell.metadata["points"] for cell in answers)
    minutes = sum(cell.metadata["minutes"] for cell in answers)
    size = f"{len(answers)} exercises, {points} points, about {minutes} minutes in all."
    if link:
        return (
            f"{link} {size}\n\nWrite your answers where it says so, run the cell, then the check "
            "below it. Each answer gets along with `numpy` and `torch` alone.\n\n"
            'On Colab, begin with "File, Save a copy in Drive": what you write in a page that you '
            f"only opened is gone when you close it. The chapter is [on Colab too]({chapter})."
        )
    return f"For teachers only: the exercises with their solutions. {size}"


def finish(notebook: NotebookNode, *, solved: bool) -> None:
    """Facts under the headings, stubs for solutions (unless `solved`), nbgrader's metadata.

    Args:
        notebook: a dressed source; changed in place.
        solved: keep the solutions.
    """
    facts = {str(cell.metadata["exercise"]): cell.metadata for cell in _answers(notebook)}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = _with_facts(cell.source, facts)
        number = str(cell.metadata.get("exercise", ""))
        if number and not solved:
            cell.source = stub(cell.source, number, cell.metadata["answer"])
        cell.metadata = _metadata(cell, number)


def stub(source: str, number: str, answer: str) -> str:
    """An answer cell as the student gets it.

    Args:
        source: with solution marks.
        number: of the exercise.
        answer: the name to define.

    Raises:
        ValueError: if there is no solution between marks.
    """

    def nothing_solved(match: re.Match[str]) -> str:
        if match["pad"]:
            return f'{match["pad"]}raise NotImplementedError("{number}: your code here")'
        return f"{answer} = None  # {number}: your answer here"

    text, found = _BLOCK.subn(nothing_solved, source)
    if not found or BEGIN in text or END in text:
        raise ValueError(f"exercise {number}: expected solutions between {BEGIN} and {END}")
    return text


def table(root: Path, badge_of: Callable[[str], str]) -> list[str]:
    """Lines of the README's table of exercises; none if there are no exercises."""
    files = exercise_sources(root)
    if not files:
        return []
    rows = ["| | Exercises | What you write | Points | Minutes | |", "|---|---|---|---|---|---|"]
    for chapter, file in files.items():
        notebook = read_exercise_source(file)
        answers = [cell.metadata for cell in _answers(notebook)]
        title = notebook.cells[0].source.splitlines()[0].removeprefix("# ")
        title = re.sub(r"^\d+\. |: exercises$", "", title)
        path = f"exercises/{file.stem}.ipynb"
        names = ", ".join(f"`{a['answer']}`" for a in answers)
        points, minutes = (sum(a[k] for a in answers) for k in ("points", "minutes"))
        rows.append(
            f"| {chapter} | [{title}]({path}) | {names} | {points} | {minutes} | {badge_of(path)} |"
        )
    return rows


def data(root: Path, chapter: int, *, check: bool) -> list[str]:
    """Write the data of a chapter's visible checks, or say whether the saved ones differ.

    Args:
        root: the folder of pyproject.toml.
        chapter: its number.
        check: compare (see `_agree`) and change nothing.
    """
    new = compute(load_bank(root, [chapter]), chapter)
    file = root / "course_lib" / "checks" / "data" / f"chapter_{chapter}.json"
    old = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    if _agree(old, new):
        return []  # nothing to write either: only last digits of another processor differ, if any
    if check:
        saved = old.get("exercises", {})
        wrong = [n for n, entry in new["exercises"].items() if not _agree(saved.get(n), entry)]
        return [f"checks/data/{file.name}: differs ({', '.join(wrong) or 'questions'})"]
    file.parent.mkdir(exist_ok=True)
    file.write_text(_layout(new), "utf-8")
    data_of_checks.chapter.cache_clear()
    return []


def compute(bank: Bank, chapter: int) -> dict[str, Any]:
    """The data of a chapter's visible checks."""
    mine = {n: f for n, f in bank.exercises.items() if f.chapter == chapter and n in bank.visible}
    return {
        "chapter": chapter,
        "exercises": {n: _exercise(bank, f, bank.visible[n]) for n, f in mine.items()},
        "questions": {
            n: {"right": q.right, "options": dict(q.options)}
            for n, q in bank.questions.items()
            if n.split(".")[0] == str(chapter)
        },
    }


# --- parts ---------------------------------------------------------------------------------------


def _answers(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if "exercise" in cell.metadata]


def _with_facts(text: str, facts: dict[str, Any]) -> str:
    lines = text.split("\n")
    heading = re.match(r"## +(\S+) ", lines[0])
    if heading is None or heading[1] not in facts:
        return text
    meta = facts[heading[1]]
    points = f"{meta['points']} point" + ("s" if meta["points"] != 1 else "")
    words = f"{points} · about {meta['minutes']} minutes · {_DIFFICULTY[meta['difficulty']]}"
    return "\n".join([lines[0], "", f"**{words} · {meta['path']} path**", *lines[1:]])


def _metadata(cell: NotebookNode, number: str) -> NotebookNode:
    tags = list(cell.metadata.get("tags", []))
    base: dict[str, Any] = {"tags": tags} if tags else {}
    if number:
        grading = {
            "schema_version": 3, "cell_type": "code", "grade": True, "solution": True,
            "locked": False, "task": False, "grade_id": f"answer-{number.replace('.', '-')}",
            "points": cell.metadata["points"],
        }  # fmt: skip
        return nbformat.from_dict({**base, "deletable": False, "nbgrader": grading})
    if cell.cell_type == "code" and re.search(r"^ask\(", cell.source, re.MULTILINE):
        return nbformat.from_dict(base)  # the student writes a letter into it
    if cell.cell_type == "code" and "check" not in tags and "setup" not in tags:
        return nbformat.from_dict(base)  # imports and scratch cells are the student's too
    grading = {
        "schema_version": 3, "cell_type": cell.cell_type, "grade": False, "solution": False,
        "locked": True, "task": False, "grade_id": f"text-{cell.id}",
    }  # fmt: skip
    return nbformat.from_dict({**base, "deletable": False, "editable": False, "nbgrader": grading})


def _exercise(bank: Bank, facts: ExerciseFacts, visible: Visible) -> dict[str, Any]:
    number, mistakes = facts.number, bank.misconceptions.get(facts.number, [])
    solution = bank.solution(number)
    is_value = all(not case.calls for claim in visible.claims for case in claim.cases)
    entry: dict[str, Any] = {"answer": facts.answer, "again": visible.again}
    if visible.needs:
        entry["needs"] = visible.needs
    entry["claims"] = [_claim(claim, visible.results) for claim in visible.claims]
    if is_value:
        digits = max(claim.digits for claim in visible.claims)
        salt = f"course {number} "
        compared = any(not c.compare.startswith("property:") for c in visible.claims)
        entry["value"] = {"want": _digest(solution, salt, digits) if compared else None}
        entry["mistakes"] = [
            {"name": m.name, "says": m.says, "value": _digest(m.answer, salt, digits)}
            for m in mistakes
        ]
        return entry
    for claim, data in zip(visible.claims, entry["claims"], strict=True):
        data["want"] = _outcomes(claim, solution)
    entry["mistakes"] = [_mistake(m, visible) for m in mistakes]
    return entry


def _claim(claim: VisibleClaim, results: Sequence[str]) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "says": claim.says,
        "compare": claim.compare,
        "rtol": claim.rtol,
        "atol": claim.atol,
        "cases": [encode(case) for case in claim.cases],
    }
    if claim.labels:
        entry["labels"] = list(claim.labels)
    if results:
        entry["results"] = list(results)
    return entry


def _mistake(mistake: Misconception, visible: Visible) -> dict[str, Any]:
    got = [_outcomes(claim, mistake.answer) for claim in visible.claims]
    return {"name": mistake.name, "says": mistake.says, "got": got}


def _outcomes(claim: VisibleClaim, answer: object) -> list[dict[str, Any]]:
    return [encode_outcome(_quietly(answer, case)) for case in claim.cases]


def _quietly(answer: object, case: Case) -> Outcome:
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return run_script(answer, case)


def _digest(value: object, salt: str, digits: int) -> list[dict[str, Any]]:
    return digest.make(to_plain(value), salt, digits)


def _layout(new: dict[str, Any]) -> str:
    """JSON with one line for each claim and each mistake: small diffs, no endless columns."""

    def line(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False, sort_keys=True)

    def block(items: Sequence[str], start: str, end: str, pad: str) -> str:
        if not items:
            return start + end
        return f"{start}\n{pad} " + f",\n{pad} ".join(items) + f"\n{pad}{end}"

    exercises = []
    for number, entry in new["exercises"].items():
        fields = []
        for key, value in entry.items():
            is_list = key in ("claims", "mistakes")
            text = block([line(v) for v in value], "[", "]", "   ") if is_list else line(value)
            fields.append(f"{line(key)}: {text}")
        exercises.append(f"{line(number)}: {block(fields, '{', '}', '  ')}")
    questions = [f"{line(n)}: {line(q)}" for n, q in new["questions"].items()]
    parts = [
        f'"chapter": {new["chapter"]}',
        f'"exercises": {block(exercises, "{", "}", " ")}',
        f'"questions": {block(questions, "{", "}", " ")}',
    ]
    return block(parts, "{", "}", "") + "\n"


def _agree(old: Any, new: Any) -> bool:
    """Equal, floats up to the last of the six digits that are kept: it depends on the processor."""
    if isinstance(new, dict):
        return (
            isinstance(old, dict)
            and old.keys() == new.keys()
            and all(_agree(old[key], new[key]) for key in new)
        )
    if isinstance(new, (list, tuple)):
        return isinstance(old, list) and len(old) == len(new) and all(map(_agree, old, new))
    if isinstance(new, float) and isinstance(old, (int, float)):
        return math.isclose(old, new, rel_tol=3e-6, abs_tol=1e-6)
    return type(old) is type(new) and old == new
