"""Evaluates one answer by the hidden checks, in this process (tests, mutation, `--unsafe`)."""

import contextlib
import importlib.util
import io
import warnings
from collections.abc import Sequence

import numpy as np

from course_lib.checks.compare import describe_problem
from course_lib.checks.run import run_script
from course_lib.checks.script import Case, Outcome
from course_tools.exercise_bank.claims import Claim, Hidden, WrongError


def evaluate(
    answer: object, hidden: Hidden, seed: int = 0, *, stop_at_first: bool = False
) -> list[tuple[Claim, str | None]]:
    """Every claim with None if it holds, else with what is wrong, for the student.

    Args:
        answer: a function, class or value.
        hidden: the checks.
        seed: the inputs are drawn from it, for each claim apart.
        stop_at_first: leave out the claims after the first that fails.
    """
    results: list[tuple[Claim, str | None]] = []
    for index, claim in enumerate(hidden.claims):
        # What only a sandbox can limit is left out here.
        cases = [case for case in draw(claim, index, seed) if case.room_mb is None]
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcomes = [run_script(answer, case) for case in cases]
        results.append((claim, verdict(claim, cases, outcomes)))
        if stop_at_first and results[-1][1] is not None:
            break
    return results


def can_grade(hidden: Hidden) -> bool:
    """Whether the module that the exercise needs is installed."""
    return not hidden.needs or importlib.util.find_spec(hidden.needs) is not None


def draw(claim: Claim, index: int, seed: int) -> Sequence[Case]:
    """The scripts of a claim for a seed; `index` is the claim's place in its exercise."""
    return list(claim.cases(np.random.default_rng([seed, index])))


def verdict(claim: Claim, cases: Sequence[Case], outcomes: Sequence[Outcome]) -> str | None:
    """None if the claim holds, else why not. Never raises, whatever came back."""
    for case, outcome in zip(cases, outcomes, strict=True):
        if outcome.problem is not None:
            note = f" ({case.note})" if case.note else ""
            return describe_problem(outcome.problem) + note
    try:
        claim.judge(cases, outcomes)
    except WrongError as error:
        return str(error)
    except Exception as error:
        return f"{UNREADABLE} ({type(error).__name__}: {error})"
    return None


#: How a verdict begins if a judge could not make sense of a result: the judge should be mended.
UNREADABLE = "the result does not have the form that the task asks for"


def fraction(results: Sequence[tuple[Claim, str | None]]) -> float:
    """The share of the points, from 0 to 1."""
    whole = sum(claim.weight for claim, _ in results)
    return sum(claim.weight for claim, wrong in results if wrong is None) / whole
