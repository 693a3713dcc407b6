"""What grading found out: results of claims, exercises and notebooks, on disk and by student."""

import json
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from course_tools.exercise_bank.evaluate import UNREADABLE

#: Status of a submission that was graded; any other says in words why it was not.
GRADED = "graded"
#: How the status begins of one on which the grader stumbled.
FAILED = "the grader failed on it"
#: Stands on every page and in every table of a run without a sandbox.
UNSAFE = "UNSAFE: graded without a sandbox, so an answer could have changed its own grade"


@dataclass(frozen=True)
class ClaimResult:
    """One claim of the hidden checks.

    Attributes:
        says: the claim in words.
        share: its share of the exercise's points, from 0 to 1.
        wrong: None if it holds, else why not.
    """

    says: str
    share: float
    wrong: str | None

    @property
    def reason(self) -> str:
        """Why it does not hold; where a judge stumbled, without the words of its error."""
        wrong = self.wrong or ""
        return UNREADABLE if wrong.startswith(UNREADABLE) else wrong


@dataclass(frozen=True)
class ExerciseResult:
    """One exercise of one submission.

    Attributes:
        number: "5.2".
        title: of the exercise.
        answer: name that it asks for.
        points: most that it gives.
        earned: what this answer gets.
        status: "graded", "not done", "missing", "unreadable" or "skipped".
        note: more about the status.
        claims: of the hidden checks.
        misconception: name of the mistake that the visible inputs show, or "".
        advice: what a tutor says about it.
        seen: sentences of the visible check about this answer's own output.
        again: what to read again.
        in_part: the misconception does not explain all that is wrong.
    """

    number: str
    title: str
    answer: str
    points: float
    earned: float
    status: str
    note: str = ""
    claims: Sequence[ClaimResult] = ()
    misconception: str = ""
    advice: str = ""
    seen: Sequence[str] = ()
    again: str = ""
    in_part: bool = False


@dataclass(frozen=True)
class Result:
    """One submission.

    Attributes:
        key: what it is stored under.
        student: who, as the tables say it.
        name: the student's name, where the files tell it.
        ids: the student's numbers in other systems, such as {"canvas": "4711"}.
        file: where it lay.
        chapter: which chapter it answers, or None.
        status: `GRADED`, or why not.
        seed: what its inputs were drawn from.
        sandbox: which back end ran it.
        seconds: what it took.
        exercises: one result each.
        superseded: files of the same student and chapter that a later one replaces.
        late: whether the platform says that it came late.
    """

    key: str
    student: str
    name: str
    ids: Mapping[str, str]
    file: str
    chapter: int | None
    status: str
    seed: int
    sandbox: str
    seconds: float
    exercises: Sequence[ExerciseResult] = ()
    superseded: Sequence[str] = ()
    late: bool = False

    @property
    def is_final(self) -> bool:
        """Whether it need not be graded again: nothing failed, and no exercise was skipped."""
        failed = self.status.startswith(FAILED)
        return not failed and all(e.status != "skipped" for e in self.exercises)

    @property
    def points(self) -> float:
        """Most points of all its exercises."""
        return sum(e.points for e in self.exercises)

    @property
    def earned(self) -> float:
        """Points of this submission."""
        return sum(e.earned for e in self.exercises)


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


# --- on disk -------------------------------------------------------------------------------------


class Store:
    """Results on disk, each written in one step, so that none is ever half there.

    Args:
        out: the folder that the teacher named.
    """

    def __init__(self, out: Path) -> None:
        self.folder = out / "submissions"
        self.folder.mkdir(parents=True, exist_ok=True)

    def load(self, key: str) -> Result | None:
        """A finished result, or None."""
        try:
            return result_from_json(json.loads((self.folder / f"{key}.json").read_text("utf-8")))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def others(self, now: Sequence[Result]) -> list[Result]:
        """What earlier runs graded and this one did not: other students, other chapters.

        Args:
            now: results of this run. They replace those of the same student and chapter.
        """
        files = sorted(self.folder.glob("*.json"), key=lambda file: (file.stat().st_mtime, file))
        earlier = {}
        for result in filter(None, (self.load(file.stem) for file in files)):
            earlier[result.student, result.chapter or result.file] = result
        present, done = {r.student for r in now}, {(r.student, r.chapter) for r in now}
        return [
            result
            for result in earlier.values()
            if (result.student, result.chapter) not in done
            and (result.status == GRADED or result.student not in present)
        ]

    def save(self, result: Result) -> None:
        """Write a result in one step."""
        write_whole(self.folder / f"{result.key}.json", json.dumps(asdict(result), indent=1))


def result_from_json(data: dict[str, Any]) -> Result:
    """What `Store.save` wrote."""
    exercises = tuple(
        ExerciseResult(
            **e | {"claims": tuple(ClaimResult(**c) for c in e["claims"]), "seen": tuple(e["seen"])}
        )
        for e in data["exercises"]
    )
    return Result(**data | {"exercises": exercises, "superseded": tuple(data["superseded"])})


def write_whole(file: Path, text: str) -> None:
    """Write a file so that at every moment it is either as it was or complete."""
    part = file.with_name(f".{file.name}.{secrets.token_hex(8)}.part")
    try:
        with part.open("w", encoding="utf-8", errors="replace", newline="") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
