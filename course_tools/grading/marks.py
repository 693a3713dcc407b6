"""Writes the folder of marks: tables, a page a student, results for platforms and programs."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from course_lib import __version__
from course_tools.exercise_bank.load import Bank
from course_tools.grading import tables
from course_tools.grading.feedback import feedback, gradescope
from course_tools.grading.file_names import file_names
from course_tools.grading.results import GRADED, About, Result, Student, by_student, write_whole


def write_marks(out: Path, results: Iterable[Result], bank: Bank, about: About) -> list[Path]:
    """Write all tables and pages, each file in one step.

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
    texts = {"grades.csv": tables.grades(students, exercises, about)}
    texts["items.csv"] = tables.items(students, exercises, about)
    if chapters and any("canvas" in s.ids for s in students):
        texts["grades_canvas.csv"] = tables.canvas(students, chapters, about)
    if any("moodle" in s.ids for s in students):
        for chapter in chapters:
            name = "grades_moodle.csv" if len(chapters) == 1 else f"grades_moodle_{chapter}.csv"
            texts[name] = tables.moodle(students, chapter, about)
    texts["details.json"] = details(students, results, pages, about)
    for name in ("feedback", "gradescope"):
        (out / name).mkdir(parents=True, exist_ok=True)
    for student in students:
        file = out / "feedback" / f"{pages[student.student]}.html"
        write_whole(file, feedback(student, about))
    folders = file_names([_submission_name(result) for result in results])
    for result in results:
        folder = out / "gradescope" / folders[_submission_name(result)]
        folder.mkdir(exist_ok=True)
        write_whole(folder / "results.json", json.dumps(gradescope(result, about), indent=1))
    for name, text in texts.items():
        write_whole(out / name, text)
    return [*(out / name for name in texts), out / "feedback", out / "gradescope"]


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


def _submission_name(result: Result) -> str:
    what = result.file if result.chapter is None else f"chapter_{result.chapter}"
    return f"{result.student}_{what}"
