"""What students handed in, from folders and zip files as learning platforms give them.

Whose a file is, and which of several notebooks counts, is decided here; what the files hold is read
in a limited process (`reader`). A file that cannot be graded becomes a submission whose status says
why; the rest go on.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from course_tools.exercise_bank.load import Bank
from course_tools.grading.archives import Listing, Record
from course_tools.grading.platforms import (
    METADATA,
    Group,
    Who,
    by_owner,
    clean_name,
    looks_downloaded,
)
from course_tools.grading.read_notebook import Answer, Cell, Known, Notebook, digest
from course_tools.grading.reader import Reader, UnreadableError

#: Status of a notebook that answers nothing.
NO_EXERCISE = "no exercise of this course was found in it"


@dataclass(frozen=True)
class Submission:
    """One notebook of one student.

    Attributes:
        student: who, unique in the tables; the file's name if nothing better is known.
        name: the student's name, if known.
        ids: the student's numbers in other systems: {"canvas": "4711"}.
        file: where it lies, for people: "week5.zip/lee_4711_99_05_kv_cache.ipynb".
        cells: of code.
        answers: by exercise.
        chapter: which chapter it answers, if that is known.
        status: why it cannot be graded, or "".
        time: when it was handed in (seconds since 1970), if the platform tells.
        late: whether the platform says so.
        superseded: files of the same student and chapter that this one replaces.
        attempt: which of the student's notebooks of this chapter it is, from 1.
        team: whether it is a team's.
        order: among the notebooks of a student and chapter the last counts.
    """

    student: str
    name: str
    ids: Mapping[str, str]
    file: str
    cells: Sequence[Cell] = ()
    answers: Mapping[str, Answer] = field(default_factory=dict)
    chapter: int | None = None
    status: str = ""
    time: float | None = None
    late: bool = False
    superseded: Sequence[str] = ()
    attempt: int = 1
    team: bool = False
    order: tuple[bool, tuple[int, int], float, str] = (False, (0, 0), 0.0, "")


@dataclass(frozen=True)
class Found:
    """All that was handed in.

    Attributes:
        submissions: those that count, by student and chapter.
        problems: what was left out and why, for the teacher.
    """

    submissions: Sequence[Submission]
    problems: Sequence[str]


def find_submissions(
    sources: Sequence[Path],
    bank: Bank,
    *,
    leave_out: Sequence[Path] = (),
    one_student: str = "",
    teams: bool = False,
) -> Found:
    """Read what students handed in.

    Args:
        sources: folders, zip files and notebooks, each as a platform gives it, or plain files.
        bank: the exercises, to tell which chapter a notebook answers.
        leave_out: folders inside them that are not submissions, such as the one for the results.
        one_student: all of it belongs to this student.
        teams: the names in Moodle's download are those of teams.

    Raises:
        FileNotFoundError: if there is no such folder or file.
        ValueError: if one is a file of another kind, or holds nothing but a folder that looks like
            the download itself.
    """
    known = known_notebooks(bank)
    submissions: list[Submission] = []
    problems: list[str] = []
    for source in sources:
        if not source.exists():
            raise FileNotFoundError(f"{source}: no such folder or zip file")
        with Reader(source.resolve(), known) as reader:
            listing = _listing(source, reader, [path.resolve() for path in leave_out])
            problems += listing.problems
            if one_student:
                who = Who(one_student)
                groups = [Group([who], dict.fromkeys(listing.files, who))] if listing.files else []
            else:
                groups = _groups(source, listing, reader, problems, teams=teams)
            for group in groups:
                submissions += _of_group(group, listing.files, reader, problems)
    return Found(tuple(_latest(submissions)), tuple(problems))


def known_notebooks(bank: Bank) -> Known:
    """By what the course's own notebooks are known again."""
    exercises = {n: (facts.chapter, facts.answer) for n, facts in bank.exercises.items()}
    lessons = {}
    for file in sorted((bank.root / "notebooks" / "source").rglob("*.py")):
        cells = re.split(r"^# %%(.*)$", file.read_text("utf-8"), flags=re.MULTILINE)[1:]
        for options, text in zip(cells[::2], cells[1::2], strict=True):
            if "[markdown]" not in options and len(text.split()) > 3:
                lessons[digest(text)] = file.stem
    return Known(exercises, lessons)


def _listing(source: Path, reader: Reader, apart: Sequence[Path]) -> Listing:
    try:
        found = reader.listing()
    except UnreadableError as error:
        wrong = f"{source}: expected a folder, a zip file or a notebook ({error})"
        raise ValueError(wrong) from None
    base = source.resolve()
    files = {n: t for n, t in found.files.items() if not {*(base / n).parents} & {*apart}}
    return replace(found, files=files)


def _groups(
    source: Path, listing: Listing, reader: Reader, problems: list[str], *, teams: bool
) -> list[Group]:
    """The files of one source, by student."""
    tops = {name.split("/")[0] for name in listing.files}
    around = ""
    if len(tops) == 1 and looks_downloaded(listing.files):  # a folder around the whole download
        (top,) = tops
        if source.is_dir():
            raise ValueError(
                f"{source}: all of it lies in the folder {top!r}, which looks like a platform's "
                f"download itself; name that folder: {source / top}"
            )
        around = f"{top}/"
    names = {name.removeprefix(around): name for name in listing.files}
    submitters = _submitters(names, reader, problems)
    groups = by_owner(names, around[:-1] or source.stem, submitters, teams=teams)
    for group in groups:
        student = group.people[0]
        if not student.known and looks_downloaded(group.files):
            problems.append(
                f"{student.student}: taken as one student's, though names in it look like a "
                "platform's download; if it is one, give it on its own"
            )
        group.files = {names[name]: who for name, who in group.files.items()}
    return groups


def _submitters(
    names: dict[str, str], reader: Reader, problems: list[str]
) -> dict[str, dict[str, object]]:
    """Gradescope's list of who handed in what, by folder."""
    if METADATA not in names:
        return {}
    try:
        return reader.submitters(names.pop(METADATA))
    except UnreadableError as error:
        problems.append(f"{METADATA}: {error}")
        return {}


# --- one student ---------------------------------------------------------------------------------


def _of_group(
    group: Group, times: Mapping[str, float], reader: Reader, problems: list[str]
) -> Iterator[Submission]:
    """What one student, or a team, handed in."""
    names = list(group.files)
    try:
        records = reader.read(names)
    except UnreadableError as error:
        records = [Record(0, clean_name(names[0]), "problem", str(error))]
    stamps = {  # those of nbgrader, not those inside an archive
        r.file.rpartition("/")[0]: float(r.status)
        for r in records
        if r.kind == "time" and r.file == clean_name(names[r.source], 300)
    }
    for record in _that_count(records, group, problems):
        name = names[record.source]
        owner = group.files[name]
        when = owner.time
        if when is None and "nbgrader" in owner.ids:
            when = stamps.get(record.file.rpartition("/")[0])
        notebook = record.notebook or Notebook(None)
        order = (_is_done(record), owner.rank, when or times.get(name, 0.0), record.file)
        for who in group.people:
            yield Submission(
                who.student, who.name, who.ids, record.file, notebook.cells, notebook.answers,
                notebook.chapter, record.status, when, owner.late, team=who.team, order=order,
            )  # fmt: skip


def _that_count(records: Sequence[Record], group: Group, problems: list[str]) -> list[Record]:
    """Exercises and what is broken; if there are none, one record that says what there is."""
    broken = [r for r in records if r.kind == "problem"]
    notebooks = [r for r in records if r.notebook is not None]
    exercises = [r for r in notebooks if r.notebook and r.notebook.chapter is not None]
    if any(map(_is_done, exercises)):  # of a whole course folder, what was worked on
        blank = [r for r in exercises if not _is_done(r) and "exercises/" in r.file]
        exercises = [r for r in exercises if r not in blank]
    if exercises or broken:
        return [*exercises, *broken]
    for record in notebooks:
        name = record.notebook.lesson if record.notebook else ""
        why = f"this is the lesson {name}, not its exercises: exercises/{name}.ipynb"
        return [replace(record, status=why if name else NO_EXERCISE)]
    others = [r for r in records if r.kind == "other" and r.file != "index.html"]
    if others and (group.people[0].known or not group.is_file):
        names = ", ".join(r.file.rpartition("/")[2] for r in others[:3])
        return [replace(others[0], status=f"no notebook, but {names}")]
    problems += [f"{record.file}: not a notebook, left out" for record in others]
    return []


def _is_done(record: Record) -> bool:
    return record.notebook is not None and any(a.done for a in record.notebook.answers.values())


def _latest(submissions: Sequence[Submission]) -> list[Submission]:
    """Of each student and chapter the one that counts: of those with answers the latest.

    A file that cannot be read replaces nothing and is replaced by nothing.
    """
    groups: dict[tuple[str, int | str], list[Submission]] = {}
    for one in submissions:
        what = one.chapter if one.chapter is not None else one.file
        groups.setdefault((one.student, what), []).append(one)
    found = []
    for group in groups.values():
        last, *earlier = sorted(group, key=lambda s: s.order, reverse=True)
        by_time = sorted(s.order[1:] for s in group)
        files = tuple(s.file for s in earlier)
        attempt = by_time.index(last.order[1:]) + 1
        found.append(replace(last, superseded=files, attempt=attempt))
    return sorted(found, key=lambda s: (s.student.casefold(), s.student, s.chapter or 0, s.file))
