"""Grades submissions: from a notebook to claims that hold or do not (`course grade`).

One submission at a time, in a sandbox (`session`): each answer, cut out with what it depends on
(`extract_answer`), runs on inputs drawn from a secret seed, and what comes back is judged here.
Where that ends in less than full marks, the notebook is replayed up to the answer's check, and the
better of the two counts. Every finished submission is one file, written in one step; what is there
is not graded again, so a run that was killed goes on where it was.
"""

import builtins
import hashlib
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tqdm import tqdm

from course_lib import __version__
from course_lib.checks.callbacks import REGISTER
from course_lib.checks.report import report_on, visible_cases
from course_lib.checks.script import Outcome, Problem
from course_tools.exercise_bank.evaluate import can_grade, draw, verdict
from course_tools.exercise_bank.load import Bank, ExerciseFacts
from course_tools.grading.read_notebook import Answer
from course_tools.grading.results import (
    FAILED,
    GRADED,
    ClaimResult,
    ExerciseResult,
    Result,
    Store,
    write_whole,
)
from course_tools.grading.submissions import Submission
from course_tools.sandbox.backends import Backend
from course_tools.sandbox.cgroups import Limits, SandboxError
from course_tools.sandbox.session import Session
from course_tools.sandbox.staging import staging_dir

#: Modules of this package that decide about points.
_DECIDING = (
    "exercise_bank/assertions",
    "exercise_bank/claims",
    "exercise_bank/evaluate",
    "grading/extract_answer",
    "grading/grade",
    "grading/read_notebook",
    "sandbox/clock",
    "sandbox/inside/replay",
    "sandbox/inside/shared_arguments",
    "sandbox/inside/wire",
    "sandbox/inside/worker",
    "sandbox/line",
    "sandbox/session",
)
#: What students read when their answer stops on a hidden input; its own words could hold the input.
_STOPS = {
    "memory": "it needs more memory than the task allows",
    "time": "it was still running when its time was up",
    "not plain": "it returns something else than arrays and numbers, or far too much",
    "missing": "something that the task asks for is not there",
    "not done": "a part of it is not done yet",
}
#: Which status says more about an answer that earns nothing.
_WORTH = {GRADED: 2, "not done": 1, "unreadable": 0, "missing": -1}
#: Seconds of a notebook that are kept for each exercise that is still to come.
_KEPT = 5.0
_ERRORS = {n for n, v in vars(builtins).items() if isinstance(v, type) and issubclass(v, Exception)}


@dataclass
class Grader:
    """What all submissions of a run share.

    Args:
        bank: the exercises.
        backend: what isolates submissions.
        secret: the run's seed; recorded in the report, so that a regrade is exact.
        limits: of one submission.
    """

    bank: Bank
    backend: Backend
    secret: str
    limits: Limits = field(default_factory=Limits)

    def key(self, submission: Submission) -> str:
        """Under what a result is stored: who, what, and by which checks."""
        parts = (submission.student, submission.file, self.secret, self.checks, __version__)
        state = (submission.status, repr(self.limits))
        text = "\0".join((*parts, *state, *map(repr, submission.cells)))
        return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:32]

    @cached_property
    def checks(self) -> str:
        """A digest of the back end's name and of all files that decide about points."""
        digest = hashlib.sha256(self.backend.name.encode())
        tools = Path(__file__).parents[1]
        checks = tools.with_name("course_lib") / "checks"
        files = [*(self.bank.root / "solutions").rglob("*.py"), *checks.rglob("*.*")]
        files += [tools / f"{name}.py" for name in _DECIDING]
        for file in sorted(f for f in files if f.suffix in (".py", ".json")):
            digest.update(file.read_bytes())
        return digest.hexdigest()

    def seed(self, student: str, chapter: int) -> int:
        """What a student's inputs are drawn from."""
        text = f"{self.secret}\0{student}\0{chapter}".encode()
        return int.from_bytes(hashlib.sha256(text).digest()[:8], "big")

    def grade(self, submission: Submission, stage: Path, slot: int = 0) -> Result:
        """Grade one submission; whatever is in it, this returns.

        Args:
            submission: as from `find_submissions`.
            stage: as from `staging_dir`.
            slot: number of the worker.

        Raises:
            SandboxError: if no sandbox starts.
        """
        begin = time.monotonic()
        chapter, status = submission.chapter, submission.status
        exercises, seed = [], 0
        try:
            if not status and chapter is not None:
                status, seed = GRADED, self.seed(submission.student, chapter)
                with Session(self.backend, stage, REGISTER, self.limits, slot) as session:
                    exercises = self.exercises(submission, chapter, session, seed)
        except SandboxError:
            raise
        except Exception as error:  # one notebook never stops the rest
            status, exercises = f"{FAILED} ({type(error).__name__})", []
        return Result(
            key=self.key(submission), student=submission.student, name=submission.name,
            ids=dict(submission.ids), file=submission.file, chapter=chapter, status=status,
            seed=seed, sandbox=self.backend.name, seconds=round(time.monotonic() - begin, 2),
            exercises=tuple(exercises), superseded=tuple(submission.superseded),
            late=submission.late,
        )  # fmt: skip

    def exercises(
        self, submission: Submission, chapter: int, session: Session, seed: int
    ) -> list[ExerciseResult]:
        """The exercises of a chapter in a session of its own."""
        mine = [facts for facts in self.bank.exercises.values() if facts.chapter == chapter]
        cells = [cell.python for cell in submission.cells]
        results = []
        for place, facts in enumerate(mine, 1):
            answer = submission.answers[facts.number]
            programs = (answer.source, cells[: answer.cell + 1])
            keep = _KEPT * (len(mine) - place)
            results.append(self._better(facts, answer, programs, session, seed, keep))
        return results

    def _better(
        self,
        facts: ExerciseFacts,
        answer: Answer,
        programs: Sequence[str | Sequence[str] | None],
        session: Session,
        seed: int,
        keep: float,
    ) -> ExerciseResult:
        """The better of two: the answer with what it depends on, and as the notebook makes it."""
        hidden = self.bank.hidden[facts.number]
        if not can_grade(hidden):
            note = f"not graded: the grader lacks {hidden.needs}"
            return replace(_nothing(facts, "skipped", note), points=0.0)
        best = _nothing(facts, "missing", f"{facts.answer} is not in the notebook")
        if answer.wrong:
            best = _nothing(facts, "unreadable", answer.wrong)
        for program in programs:
            if program is None or best.earned == best.points:
                continue
            result = self._graded(facts, program, session, seed, keep)
            if (result.earned, _WORTH[result.status]) > (best.earned, _WORTH[best.status]):
                best = result
        return best

    def _graded(
        self,
        facts: ExerciseFacts,
        program: str | Sequence[str],
        session: Session,
        seed: int,
        keep: float,
    ) -> ExerciseResult:
        hidden = self.bank.hidden[facts.number]
        drawn = [draw(claim, i, seed) for i, claim in enumerate(hidden.claims)]
        shown = visible_cases(facts.number)
        scripts = [*shown, *drawn]
        flat = [case for cases in scripts for case in cases]
        came = session.run(
            facts.number, facts.answer, program, flat,
            imports=facts.imports, shown=sum(map(len, shown)), keep=keep,
        )  # fmt: skip
        if all(o.problem is not None and o.problem.kind == "not done" for o in came):
            return _nothing(facts, "not done", "not done yet")
        if all(o.problem is not None and o.problem.kind == "absent" for o in came):
            return _nothing(facts, "missing", f"{facts.answer} is not in the notebook")
        outcomes = _grouped(came, scripts)
        seen, unseen = outcomes[: len(shown)], outcomes[len(shown) :]
        whole = sum(claim.weight for claim in hidden.claims)
        claims = tuple(
            ClaimResult(claim.says, claim.weight / whole, verdict(claim, cases, _guarded(results)))
            for claim, cases, results in zip(hidden.claims, drawn, unseen, strict=True)
        )
        earned = facts.points * sum(claim.share for claim in claims if claim.wrong is None)
        report = report_on(facts.number, seen)
        return replace(
            _nothing(facts, GRADED), earned=round(earned, 6), claims=claims,
            misconception=report.diagnosis or "", advice=report.advice,
            seen=tuple(line.finding.text for line in report.lines if line.finding is not None),
            again=report.again, in_part=report.in_part,
        )  # fmt: skip


def _nothing(facts: ExerciseFacts, status: str, note: str = "") -> ExerciseResult:
    """The result of an exercise that earns nothing."""
    return ExerciseResult(
        number=facts.number, title=facts.title, answer=facts.answer, points=float(facts.points),
        earned=0.0, status=status, note=note,
    )  # fmt: skip


def _grouped(outcomes: Sequence[Outcome], scripts: Sequence[Sequence[Any]]) -> list[list[Outcome]]:
    rest = iter(outcomes)
    return [[next(rest) for _ in cases] for cases in scripts]


def _guarded(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Outcomes on hidden inputs; where an answer stopped, in our words instead of its own."""
    return [
        o if o.problem is None else replace(o, problem=_in_our_words(o.problem)) for o in outcomes
    ]


def _in_our_words(problem: Problem) -> Problem:
    if problem.kind == "raised":
        (name,) = re.findall(r"^\w*", problem.text)
        text = name if name in _ERRORS else "an error of its own"
    else:
        text = _STOPS.get(problem.kind, "the program ended before it gave an answer")
    return Problem(problem.kind, text, problem.call)


# --- a whole class -------------------------------------------------------------------------------


def grade_all(
    grader: Grader, submissions: Sequence[Submission], out: Path, jobs: int = 1
) -> Iterator[Result]:
    """Grade what is not graded yet, several at a time, with a progress bar.

    Args:
        grader: what they share.
        submissions: all of them.
        out: folder of results; one file a submission goes to `out/submissions`.
        jobs: how many at a time.

    Yields:
        A result for each submission, finished ones first.
    """
    store = Store(out)
    todo: list[Submission] = []
    for submission in submissions:
        done = store.load(grader.key(submission))
        if done is None or not done.is_final:
            todo.append(submission)
        else:
            yield _as_now(done, submission)
    slots: SimpleQueue[int] = SimpleQueue()
    for slot in range(jobs):
        slots.put(slot)

    def work(submission: Submission) -> Result:
        slot = slots.get()
        try:
            result = grader.grade(submission, stage, slot)
        finally:
            slots.put(slot)
        store.save(result)
        return result

    with staging_dir() as stage, ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(work, submission) for submission in todo]
        bar = tqdm(
            as_completed(futures), total=len(submissions), initial=len(submissions) - len(todo),
            unit="notebook", disable=None,
        )  # fmt: skip
        try:
            for future in bar:
                yield future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _as_now(result: Result, submission: Submission) -> Result:
    """A stored result with what the folder says today about who handed it in, and what before."""
    return replace(
        result, name=submission.name, ids=dict(submission.ids), late=submission.late,
        superseded=tuple(submission.superseded),
    )  # fmt: skip


def secret_of(out: Path, given: str | None = None) -> str:
    """The seed of a run: given, else the one that the folder `out` had, else a new one.

    Raises:
        ValueError: if another one is given than the folder was graded with.
    """
    file = out / "seed.txt"
    known = file.read_text("utf-8").strip() if file.is_file() else None
    if given is not None and known not in (None, given):
        raise ValueError(f"seed: expected {known}, with which {out} was graded; got {given}")
    secret = given or known or secrets.token_hex(16)
    if known is None:
        out.mkdir(parents=True, exist_ok=True)
        write_whole(file, secret + "\n")
    return secret
