"""Tables of a class, for teachers and for the import of learning platforms, and for the terminal.

Names and files come from outside: a cell that a spreadsheet could take for a formula is disarmed.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from course_tools.exercise_bank.load import ExerciseFacts
from course_tools.grading.results import GRADED, UNSAFE, About, Result, Student

#: How a cell of a table begins that a spreadsheet could take for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
#: Systems whose numbers stand in grades.csv, in this order.
_SYSTEMS = ("canvas", "moodle", "gradescope", "nbgrader", "sid", "email")
#: Fewest students for a correlation to be worth a number.
_ENOUGH = 5


def grades(students: Sequence[Student], exercises: Sequence[ExerciseFacts], about: About) -> str:
    """grades.csv: a row a student, a column an exercise."""
    systems = [name for name in _SYSTEMS if any(name in s.ids for s in students)]
    head = ["student", "name", *systems]
    head += [f"{facts.number} (of {facts.points})" for facts in exercises]
    rows = [[*head, "total", "out of", "status", "files"]]
    for student in students:
        found = [student.exercises.get(facts.number) for facts in exercises]
        marks = ["" if e is None or e.status == "skipped" else number(e.earned) for e in found]
        total = [number(student.earned), number(student.points)] if student.graded else ["", ""]
        names = ", ".join(r.file for r in (*student.graded, *student.others))
        ids = [student.ids.get(name, "") for name in systems]
        start = [student.student, student.name, *ids]
        rows.append([*start, *marks, *total, student.status(about), names])
    return "\ufeff" + _csv(rows)  # the mark tells spreadsheets that it is UTF-8


def canvas(students: Sequence[Student], chapters: Sequence[int], about: About) -> str:
    """grades_canvas.csv, for "Import grades" of Canvas' gradebook: a column a chapter."""
    stamp = " (UNSAFE)" if about.unsafe else ""
    titles = [f"Chapter {chapter} exercises{stamp}" for chapter in chapters]
    most = [max(r.points for s in students if (r := _of(s, c))) for c in chapters]
    rows = [["Student", "ID", "SIS User ID", "SIS Login ID", "Section", *titles]]
    rows.append(["Points Possible", "", "", "", "", *map(number, most)])
    for student in (s for s in students if "canvas" in s.ids):
        found = [_of(student, chapter) for chapter in chapters]
        marks = ["" if result is None else number(result.earned) for result in found]
        rows.append([student.name, student.ids["canvas"], "", "", "", *marks])
    return _csv(rows)


def moodle(students: Sequence[Student], chapter: int, about: About) -> str:
    """grades_moodle.csv, for "Upload grading worksheet" of one assignment."""
    head = ["Identifier", "Full name", "Email address", "Status", "Grade", "Maximum Grade"]
    head += ["Grade can be changed", "Last modified (grade)", "Feedback comments"]
    rows = [head]
    for student in (s for s in students if "moodle" in s.ids):
        result = _of(student, chapter)
        if result is None:
            continue
        comment = f"{number(result.earned)} of {number(result.points)} points"
        comment += f". {UNSAFE}" if about.unsafe else ""
        who = [f"Participant {student.ids['moodle']}", student.name, student.ids.get("email", "")]
        marks = ["", number(result.earned), number(result.points), "Yes", "", comment]
        rows.append([*who, *marks])
    return _csv(rows)


def items(students: Sequence[Student], exercises: Sequence[ExerciseFacts], about: About) -> str:
    """items.csv: how hard each exercise was, and what people thought.

    Facility is the mean share of the points (1 = easy). Discrimination is the correlation of
    that share with the share of the points of the chapter's other exercises; empty if fewer than
    five students or no differences.
    """
    head = ["exercise", "title", "points", "students", "not done", "facility", "discrimination"]
    rows = [[*head, "misconceptions", "sandbox"]]
    for facts in exercises:
        found = [s.exercises[facts.number] for s in students if facts.number in s.exercises]
        found = [e for e in found if e.status != "skipped"]
        missing = sum(e.status in ("not done", "missing") for e in found)
        shares = [e.earned / e.points for e in found if e.points]
        names = Counter(e.misconception for e in found if e.misconception)
        thoughts = "; ".join(f"{name} ({n})" for name, n in names.most_common())
        facility = f"{np.mean(shares):.2f}" if shares else ""
        rows.append(
            [
                facts.number, facts.title, number(facts.points), str(len(found)), str(missing),
                facility, _discrimination(students, facts), thoughts,
                UNSAFE if about.unsafe else about.sandbox,
            ]
        )  # fmt: skip
    return "\ufeff" + _csv(rows)


def _discrimination(students: Sequence[Student], facts: ExerciseFacts) -> str:
    mine, rest = [], []
    for student in students:
        own, result = student.exercises.get(facts.number), _of(student, facts.chapter)
        if own is None or result is None or not own.points or result.points == own.points:
            continue
        mine.append(own.earned / own.points)
        rest.append((result.earned - own.earned) / (result.points - own.points))
    if len(mine) < _ENOUGH or min(np.std(mine), np.std(rest)) < 1e-9:
        return ""
    return f"{np.corrcoef(mine, rest)[0, 1]:.2f}"


def _of(student: Student, chapter: int) -> Result | None:
    return next((result for result in student.graded if result.chapter == chapter), None)


def _csv(rows: Sequence[Sequence[str]]) -> str:
    stream = io.StringIO()
    csv.writer(stream).writerows([[harmless(cell) for cell in row] for row in rows])
    return stream.getvalue()


def harmless(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula: an apostrophe stands before what might be."""
    cell = "".join(" " if c in "\r\n\t\0\v\f" else c for c in cell)
    # A spreadsheet that separates cells at another mark finds the start of one in the middle.
    cell = re.sub(r"([;|]\s*)(?=[=+\-@\uff1d\uff0b\uff0d\uff20])", r"\1'", cell)
    is_number = re.fullmatch(r"-?\d+(\.\d+)?", cell) is not None
    return f"'{cell}" if cell.lstrip().startswith(_FORMULA) and not is_number else cell


def number(value: float) -> str:
    """Points without zeros at their end."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def summary(results: Sequence[Result], about: About) -> str:
    """What `course grade` prints at the end."""
    lines = [f"{'chapter':<10}{'graded':>8}{'mean':>9}{'out of':>8}{'lowest':>9}{'highest':>9}"]
    for chapter in sorted({r.chapter for r in results if r.status == GRADED and r.chapter}):
        marks = [r.earned for r in results if r.status == GRADED and r.chapter == chapter]
        most = max(r.points for r in results if r.status == GRADED and r.chapter == chapter)
        cells = (np.mean(marks), most, min(marks), max(marks))
        mean, out_of, low, high = (number(float(value)) for value in cells)
        lines.append(f"{chapter:<10}{len(marks):>8}{mean:>9}{out_of:>8}{low:>9}{high:>9}")
    left = [r for r in results if r.status != GRADED]
    lines = lines if len(lines) > 1 else []
    if left:
        lines += [f"{len(left)} not graded:", *(f"  {r.file}: {r.status}" for r in left[:20])]
        lines += [f"  ... and {len(left) - 20} more, in grades.csv"] if len(left) > 20 else []
    lines += [f"left out: {problem}" for problem in about.problems[:20]]
    lines += [f"sandbox: {about.sandbox} ({about.promise}); {about.limits}"]
    return "\n".join([UNSAFE, *lines, UNSAFE] if about.unsafe else lines)
