"""What teachers and students get to read: tables, feedback pages, results for platforms.

Every text that came from outside (names, files, what an answer raised) is made harmless where it
goes: formulas in tables, tags in pages, separators in file names. Every file is written in one
step. Students see claims and sentences about their own output, never an expected value of a
hidden input.
"""

import csv
import hashlib
import html
import io
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from course_lib import __version__
from course_lib.figures.palette import DARK, LIGHT, css_variables
from course_tools.exercise_bank.evaluate import UNREADABLE
from course_tools.exercise_bank.load import Bank, ExerciseFacts
from course_tools.grading.grade import GRADED, ExerciseResult, Result, write_whole

#: Stands on every page and in every table of a run without a sandbox.
UNSAFE = "UNSAFE: graded without a sandbox, so an answer could have changed its own grade"
#: How a cell of a table begins that a spreadsheet could take for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
#: Systems whose numbers stand in grades.csv, in this order.
_SYSTEMS = ("canvas", "moodle", "gradescope", "nbgrader", "sid", "email")
#: Fewest students for a correlation to be worth a number.
_ENOUGH = 5
_LONGEST, _RESERVED = 80, re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


@dataclass(frozen=True)
class About:
    """What holds for a whole run.

    Attributes:
        seed: what the inputs were drawn from, so that a regrade is exact.
        sandbox: name of the back end.
        promise: what the back end stands for.
        limits: how memory and processes were limited; some machines allow weak limits only.
        problems: what was left out of the submissions, and why.
        address: where the course is published, "" if nowhere.
        tag: version of the course there.
    """

    seed: str
    sandbox: str
    promise: str
    limits: str = ""
    problems: Sequence[str] = ()
    address: str = ""
    tag: str = ""

    @property
    def unsafe(self) -> bool:
        """Whether answers ran without a sandbox."""
        return self.sandbox == "unsafe"


@dataclass(frozen=True)
class Student:
    """All that one student handed in.

    Attributes:
        student: as in the tables.
        name: if known.
        ids: in other systems.
        graded: one result a chapter.
        others: what could not be graded.
    """

    student: str
    name: str
    ids: Mapping[str, str]
    graded: Sequence[Result]
    others: Sequence[Result]

    @cached_property
    def exercises(self) -> dict[str, ExerciseResult]:
        """Results by the numbers of the exercises."""
        return {e.number: e for result in self.graded for e in result.exercises}

    @property
    def earned(self) -> float:
        """Points in all."""
        return sum(result.earned for result in self.graded)

    @property
    def points(self) -> float:
        """Most points in all."""
        return sum(result.points for result in self.graded)

    def status(self, about: About) -> str:
        """What happened to the files, in words."""
        late = any(result.late for result in (*self.graded, *self.others))
        words = [("graded, late" if late else "graded")] if self.graded else []
        if self.graded and about.unsafe:
            words = [f"{words[0]} ({UNSAFE})"]
        replaced = [file for result in self.graded for file in result.superseded]
        if replaced:
            words.append(f"replaces {', '.join(replaced)}")
        several = len(self.graded) + len(self.others) > 1
        words += [f"{r.file}: {r.status}" if several else r.status for r in self.others]
        return "; ".join(words)


def write_reports(out: Path, results: Iterable[Result], bank: Bank, about: About) -> list[Path]:
    """Write all tables and pages.

    Args:
        out: the folder that the teacher named.
        results: of all submissions that count.
        bank: the exercises.
        about: the run.

    Returns:
        The tables and folders that were written.
    """
    results = sorted(results, key=lambda r: (r.student.casefold(), r.student, r.file))
    students = by_student(results)
    chapters = sorted({r.chapter for r in results if r.status == GRADED and r.chapter is not None})
    exercises = [facts for facts in bank.exercises.values() if facts.chapter in chapters]
    pages = file_names([s.student for s in students])
    tables = {"grades.csv": grades(students, exercises, about)}
    tables["items.csv"] = items(students, exercises, about)
    if chapters and any("canvas" in s.ids for s in students):
        tables["grades_canvas.csv"] = canvas(students, chapters, about)
    if any("moodle" in s.ids for s in students):
        for chapter in chapters:
            name = "grades_moodle.csv" if len(chapters) == 1 else f"grades_moodle_{chapter}.csv"
            tables[name] = moodle(students, chapter, about)
    tables["details.json"] = details(students, results, pages, about)
    for folder in ("feedback", "gradescope"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for student in students:
        page = out / "feedback" / f"{pages[student.student]}.html"
        write_whole(page, feedback(student, about))
    folders = file_names([_submission_name(result) for result in results])
    for result in results:
        folder = out / "gradescope" / folders[_submission_name(result)]
        folder.mkdir(exist_ok=True)
        write_whole(folder / "results.json", json.dumps(gradescope(result, about), indent=1))
    for name, text in tables.items():
        write_whole(out / name, text)
    return [*(out / name for name in tables), out / "feedback", out / "gradescope"]


def by_student(results: Iterable[Result]) -> list[Student]:
    """Results grouped, in their order."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.student, []).append(result)
    return [
        Student(
            student=student,
            name=next((r.name for r in group if r.name), ""),
            ids={system: number for r in reversed(group) for system, number in r.ids.items()},
            graded=sorted((r for r in group if r.status == GRADED), key=lambda r: r.chapter or 0),
            others=[r for r in group if r.status != GRADED],
        )
        for student, group in groups.items()
    ]


# --- tables --------------------------------------------------------------------------------------


def grades(students: Sequence[Student], exercises: Sequence[ExerciseFacts], about: About) -> str:
    """grades.csv: a row a student, a column an exercise."""
    systems = [name for name in _SYSTEMS if any(name in s.ids for s in students)]
    head = ["student", "name", *systems]
    head += [f"{facts.number} (of {facts.points})" for facts in exercises]
    rows = [[*head, "total", "out of", "status", "files"]]
    for student in students:
        found = [student.exercises.get(facts.number) for facts in exercises]
        marks = ["" if e is None or e.status == "skipped" else _number(e.earned) for e in found]
        total = [_number(student.earned), _number(student.points)] if student.graded else ["", ""]
        names = ", ".join(r.file for r in (*student.graded, *student.others))
        ids = [student.ids.get(name, "") for name in systems]
        start = [student.student, student.name, *ids]
        rows.append([*start, *marks, *total, student.status(about), names])
    return "\ufeff" + _csv(rows)  # the mark tells spreadsheets that it is UTF-8


def canvas(students: Sequence[Student], chapters: Sequence[int], about: About) -> str:
    """grades_canvas.csv, for "Import grades" of Canvas' gradebook: a column a chapter."""
    stamp = " (UNSAFE)" if about.unsafe else ""
    titles = [f"Chapter {chapter} exercises{stamp}" for chapter in chapters]
    most = [max(_of(s, c).points for s in students if _of(s, c)) for c in chapters]
    rows = [["Student", "ID", "SIS User ID", "SIS Login ID", "Section", *titles]]
    rows.append(["Points Possible", "", "", "", "", *map(_number, most)])
    for student in (s for s in students if "canvas" in s.ids):
        found = [_of(student, chapter) for chapter in chapters]
        marks = ["" if result is None else _number(result.earned) for result in found]
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
        comment = f"{_number(result.earned)} of {_number(result.points)} points"
        comment += f". {UNSAFE}" if about.unsafe else ""
        who = [f"Participant {student.ids['moodle']}", student.name, student.ids.get("email", "")]
        marks = ["", _number(result.earned), _number(result.points), "Yes", "", comment]
        rows.append([*who, *marks])
    return _csv(rows)


def items(students: Sequence[Student], exercises: Sequence[ExerciseFacts], about: About) -> str:
    """items.csv: how hard each exercise was, and what people thought.

    Difficulty is the mean share of the points (1 = easy). Discrimination is the correlation of
    that share with the share of the points of the chapter's other exercises; empty if fewer than
    five students or no differences.
    """
    head = ["exercise", "title", "points", "students", "not done", "difficulty", "discrimination"]
    rows = [[*head, "misconceptions", "sandbox"]]
    for facts in exercises:
        found = [s.exercises[facts.number] for s in students if facts.number in s.exercises]
        found = [e for e in found if e.status != "skipped"]
        missing = sum(e.status in ("not done", "missing") for e in found)
        shares = [e.earned / e.points for e in found if e.points]
        names = Counter(e.misconception for e in found if e.misconception)
        thoughts = "; ".join(f"{name} ({n})" for name, n in names.most_common())
        difficulty = f"{np.mean(shares):.2f}" if shares else ""
        rows.append(
            [
                facts.number, facts.title, _number(facts.points), str(len(found)), str(missing),
                difficulty, _discrimination(students, facts), thoughts,
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
    is_number = re.fullmatch(r"-?\d+(\.\d+)?", cell) is not None
    return f"'{cell}" if cell.lstrip().startswith(_FORMULA) and not is_number else cell


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


# --- for programs --------------------------------------------------------------------------------


def details(
    students: Sequence[Student], results: Sequence[Result], pages: Mapping[str, str], about: About
) -> str:
    """details.json: everything, hidden claims included; for teachers only."""
    run = {**asdict(about), "unsafe": about.unsafe, "version": __version__}
    people = [
        {
            "student": s.student, "name": s.name, "ids": dict(s.ids), "earned": s.earned,
            "points": s.points, "status": s.status(about),
            "feedback": f"feedback/{pages[s.student]}.html",
        }
        for s in students
    ]  # fmt: skip
    data = {"run": run, "students": people, "submissions": [asdict(r) for r in results]}
    return json.dumps(data, indent=1)


def gradescope(result: Result, about: About) -> dict[str, Any]:
    """results.json of one submission, in the form that Gradescope's autograder reads."""
    lines = [UNSAFE] if about.unsafe else []
    lines += [] if result.status == GRADED else [f"Not graded: {result.status}."]
    lines += [f"Sandbox: {about.sandbox}; {about.limits}."]
    return {
        "score": result.earned,
        "output": "\n".join(lines),
        "output_format": "text",
        "visibility": "visible",
        "stdout_visibility": "hidden",
        "tests": [
            {
                "number": exercise.number,
                "name": f"{exercise.number} {exercise.answer}",
                "score": exercise.earned,
                "max_score": exercise.points,
                "status": "passed" if exercise.earned == exercise.points else "failed",
                "output": "\n".join(_plain(exercise)),
                "output_format": "text",
                "visibility": "visible",
            }
            for exercise in result.exercises
        ],
        "extra_data": {"student": result.student, "file": result.file, "chapter": result.chapter},
    }


def _plain(exercise: ExerciseResult) -> list[str]:
    """What a student reads about an exercise, line by line."""
    lines = [exercise.note] if exercise.note else []
    for claim in exercise.claims:
        lines.append(f"{'✓' if claim.wrong is None else '✗'} {claim.says}")
        if claim.wrong is not None:
            lines.append(f"    {_reason(claim.wrong)}")
    if exercise.misconception:
        lines.append(f"{_looks_like(exercise)} {exercise.advice}")
    lines += [f"On the inputs of the check in the notebook: {text}" for text in exercise.seen[:1]]
    if exercise.again and exercise.earned < exercise.points:
        lines.append(f"Read again: {_place(exercise.again)}")
    return lines


def _reason(wrong: str) -> str:
    """Why a claim does not hold; where a judge stumbled, without the words of its error."""
    return UNREADABLE if wrong.startswith(UNREADABLE) else wrong


def _looks_like(exercise: ExerciseResult) -> str:
    start = "In part this looks like" if exercise.in_part else "This looks like"
    return f"{start}: {exercise.misconception}."


def _place(again: str) -> str:
    path, _, anchor = again.partition("#")
    return f'"{anchor.replace("-", " ")}" in {path}' if anchor else path


def _submission_name(result: Result) -> str:
    what = result.file if result.chapter is None else f"chapter_{result.chapter}"
    return f"{result.student}_{what}"


# --- pages ---------------------------------------------------------------------------------------


def feedback(student: Student, about: About) -> str:
    """A student's page: it stands alone, and is read on a phone and on paper."""
    template = files("course_tools.grading").joinpath("feedback.html").read_text("utf-8")
    name = student.name or student.student
    parts = [_chapter(result, about) for result in student.graded]
    parts += [
        f'<section class="exercise none"><h3>{_text(result.file)}</h3>'
        f"<p>Not graded: {_text(result.status)}.</p></section>"
        for result in student.others
    ]
    total = f"{_number(student.earned)} of {_number(student.points)} points"
    who = f"<strong>{total}</strong>" if student.graded else "Nothing could be graded."
    stamp = f'<p class="stamp">{_text(UNSAFE)}.</p>' if about.unsafe else ""
    return Template(template).substitute(
        title=_text(f"{name}: exercises on causal attention"),
        variables=_variables(),
        heading=_text(name),
        who=f"Exercises on causal attention: {who}",
        stamp=stamp,
        chapters="\n".join(parts),
        footer=_footer(about),
    )


def _footer(about: About) -> str:
    lines = [
        "Your answers ran on inputs that were drawn for you, besides those of the checks in the "
        "notebook.",
        f"Sandbox: {about.sandbox} ({about.promise}); {about.limits}.",
        f"Course version {__version__}.",
    ]
    return "\n".join(f"<p>{_text(line)}</p>" for line in lines)


def _chapter(result: Result, about: About) -> str:
    points = f"{_number(result.earned)} of {_number(result.points)} points"
    parts = [
        f"<h2>Chapter {result.chapter}: {points}</h2>",
        f'<p class="muted">{_text(result.file)}{", late" if result.late else ""}</p>',
    ]
    if result.superseded:
        parts.append(f'<p class="muted">It replaces {_text(", ".join(result.superseded))}.</p>')
    return "\n".join([*parts, *(_exercise(e, about) for e in result.exercises)])


def _exercise(exercise: ExerciseResult, about: About) -> str:
    right = exercise.status == GRADED and exercise.earned >= exercise.points
    kind = "right" if right else "wrong" if exercise.status == GRADED else "none"
    points = f"{_number(exercise.earned)} of {_number(exercise.points)} points"
    points = "not counted" if exercise.status == "skipped" else points
    parts = [
        f'<section class="exercise {kind}">',
        f"<h3><span>{_text(exercise.number)} <code>{_text(exercise.answer)}</code></span>"
        f'<span class="points">{points}</span></h3>',
        f'<p class="muted">{_text(exercise.title)}</p>',
    ]
    if exercise.note:
        parts.append(f"<p>{_text(exercise.note)}.</p>")
    if exercise.claims:
        parts.append(f"<ul>{''.join(_claim(c.says, c.wrong) for c in exercise.claims)}</ul>")
    parts += _thought(exercise)
    if exercise.again and not right:
        parts.append(f"<p>Read again: {_link(exercise.again, about)}</p>")
    return "\n".join([*parts, "</section>"])


def _claim(says: str, wrong: str | None) -> str:
    if wrong is None:
        return f'<li class="held">{_rich(says)}</li>'
    return f'<li class="failed">{_rich(says)} <span class="why">{_rich(_reason(wrong))}</span></li>'


def _thought(exercise: ExerciseResult) -> list[str]:
    """The misconception, and what the visible inputs show."""
    inside = []
    if exercise.misconception:
        start = _text(_looks_like(exercise))
        inside.append(f"<p><strong>{start}</strong> {_rich(exercise.advice)}</p>")
    for text in exercise.seen[:1]:
        end = "" if text.endswith((".", "?", "!")) else "."
        shown = _rich(text[:1].upper() + text[1:] + end)
        inside.append(f"<p>On the inputs of the check in the notebook: {shown}</p>")
    return ['<div class="thought">', *inside, "</div>"] if inside else []


def _link(again: str, about: About) -> str:
    place = _text(_place(again))
    if not about.address or "/OWNER/" in about.address:
        return place
    url = f"{about.address}/blob/{about.tag}/{again}"
    return f'<a href="{_text(url)}">{place}</a>'


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)


def _rich(value: str) -> str:
    """Escaped; `code` and *emphasis* as on pages."""
    text = re.sub(r"`([^`\n]{1,200})`", r"<code>\1</code>", _text(value))
    return re.sub(r"(?<![\w*])\*(\S|\S[^*\n]*\S)\*(?![\w*])", r"<em>\1</em>", text)


def _variables() -> str:
    """The palette as CSS variables, for a light and a dark screen and for paper."""
    light, dark = (css_variables(theme, "--") for theme in (LIGHT, DARK))
    return (
        f":root {{ color-scheme: light dark; {light} }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"
    )


# --- names of files ------------------------------------------------------------------------------


def file_names(names: Sequence[str]) -> dict[str, str]:
    """A safe file name for each name: ASCII, short, no two alike where case does not count.

    A name that had to be changed carries a mark made from the whole of it, so that the same
    student has the same file in every run.
    """
    plain = {name: _safe(name) for name in names}
    taken = Counter(file.casefold() for file in plain.values())
    return {
        name: file if taken[file.casefold()] == 1 else _marked(file, name)
        for name, file in plain.items()
    }


def _safe(name: str) -> str:
    letters = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    file = re.sub(r"[^A-Za-z0-9_-]+", "_", letters).strip("_-") or "student"
    if file == name and len(file) <= _LONGEST and not _RESERVED.fullmatch(file):
        return file
    return _marked(file, name)


def _marked(file: str, name: str) -> str:
    mark = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{file[:_LONGEST]}-{mark}"


# --- the terminal --------------------------------------------------------------------------------


def summary(results: Sequence[Result], about: About) -> str:
    """What `course grade` prints at the end."""
    lines = [f"{'chapter':<10}{'graded':>8}{'mean':>9}{'out of':>8}{'lowest':>9}{'highest':>9}"]
    for chapter in sorted({r.chapter for r in results if r.status == GRADED and r.chapter}):
        marks = [r.earned for r in results if r.status == GRADED and r.chapter == chapter]
        most = max(r.points for r in results if r.status == GRADED and r.chapter == chapter)
        cells = (np.mean(marks), most, min(marks), max(marks))
        mean, out_of, low, high = (_number(float(value)) for value in cells)
        lines.append(f"{chapter:<10}{len(marks):>8}{mean:>9}{out_of:>8}{low:>9}{high:>9}")
    left = [r for r in results if r.status != GRADED]
    lines = lines if len(lines) > 1 else []
    if left:
        lines += [f"{len(left)} not graded:", *(f"  {r.file}: {r.status}" for r in left[:20])]
        lines += [f"  ... and {len(left) - 20} more, in grades.csv"] if len(left) > 20 else []
    lines += [f"left out: {problem}" for problem in about.problems[:20]]
    lines += [f"sandbox: {about.sandbox} ({about.promise}); {about.limits}"]
    return "\n".join([UNSAFE, *lines, UNSAFE] if about.unsafe else lines)
