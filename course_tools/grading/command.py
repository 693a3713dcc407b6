"""The command `course grade`: from a folder of submissions to a folder of marks (teachers only)."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch

from course_tools.exercise_bank.load import load_bank
from course_tools.grading.grade import Grader, grade_all, secret_of
from course_tools.grading.marks import write_marks
from course_tools.grading.results import GRADED, About, Result, Store
from course_tools.grading.shard import shard
from course_tools.grading.submissions import find_submissions
from course_tools.grading.tables import summary
from course_tools.project import Project
from course_tools.sandbox.cgroups import SandboxError
from course_tools.sandbox.choose import choose

#: What the command ends with if no sandbox can be had, and after Ctrl-C.
NO_SANDBOX, INTERRUPTED = 3, 130
_GOES_ON = "What is finished is kept; the same command goes on from there."


def grade(options: argparse.Namespace, project: Project) -> int:
    """Grade a folder.

    Args:
        options: as `course_tools.cli` reads them.
        project: the working copy.

    Returns:
        0 if everything was graded, 1 if something was not (the tables say what and why),
        `NO_SANDBOX` or `INTERRUPTED`.

    Raises:
        FileNotFoundError, ValueError: for wrong use.
    """
    torch.set_num_threads(1)
    sources, out = options.submissions, options.out
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out: expected a folder; got the file {out}")
    if options.jobs < 1:
        raise ValueError(f"--jobs: expected at least 1; got {options.jobs}")
    mine = shard(options.shard or "0/1")
    if options.shard and not (options.seed or (out / "seed.txt").is_file()):
        raise ValueError("--shard: expected --seed with it, the same one for all shards")
    bank = load_bank(project.root)
    known = {facts.chapter for facts in bank.exercises.values()}
    unknown = sorted(set(options.only) - known)
    if unknown:
        raise ValueError(f"--only: expected chapters among {sorted(known)}; got {unknown}")
    found = find_submissions(
        sources, bank, leave_out=[out], one_student=options.student, teams=options.teams
    )
    names = ", ".join(map(str, sources))
    if not found.submissions:
        raise ValueError("\n".join([f"{names}: there is no notebook in it", *found.problems[:20]]))
    asked = {*options.only, None} if options.only else {*known, None}
    counting = [s for s in found.submissions if s.chapter in asked and mine(s.student)]
    others = [s for s in found.submissions if s.chapter not in asked]
    problems = list(found.problems)
    if others:
        problems.append(f"notebooks of other chapters, as --only says: {len(others)}")
    if options.student and not counting:  # who handed in the wrong one reads it
        wrong = f"chapter {others[0].chapter}, not one that was asked for"
        counting = [replace(others[0], chapter=None, status=wrong)]
    if not counting and not options.shard:
        raise ValueError(f"{names}: there is no notebook of {options.only} in it")
    try:
        with closing(choose(options.unsafe, project.root / "solutions", *sources, out)) as backend:
            grader = Grader(bank, backend, secret_of(out, options.seed))
            results = list(grade_all(grader, counting, out, options.jobs))
    except SandboxError as error:
        print(f"course grade: {error}\n{_GOES_ON}", file=sys.stderr)
        return NO_SANDBOX
    except KeyboardInterrupt:
        print(f"\ncourse grade: interrupted. {_GOES_ON}", file=sys.stderr)
        return INTERRUPTED
    if options.shard:
        print(f"shard {options.shard}: {len(results)} notebooks done; `course grade` without")
        print("--shard writes the tables when all shards are")
        return 0
    results += Store(out).others(results)
    about = About(
        grader.secret, backend.name, backend.promise, backend.limits_note, problems,
        project.address, project.tag,
    )  # fmt: skip
    return _report(out, results, about, grader)


def _report(out: Path, results: Sequence[Result], about: About, grader: Grader) -> int:
    written = write_marks(out, results, grader.bank, about)
    print(summary(results, about))
    print("written: " + ", ".join(str(path) for path in written))
    return 0 if all(result.status == GRADED for result in results) else 1
