"""Hidden checks: claims about an answer, judged on what came back (teachers only).

A claim draws fresh inputs from a seed (`cases`), has the scripts run, in this process or in a
sandbox, and judges the plain values that come back (`judge`). The expected values never leave
the process that judges. Each chapter's claims are in `solutions/hidden/`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from course_lib.checks.script import Case, Outcome


class WrongError(AssertionError):
    """An answer is wrong; the message says why to someone who does not know the answer.

    It never holds an expected value of a hidden input.
    """


@dataclass(frozen=True)
class Claim:
    """One thing that a right answer does, with its share of the points.

    Args:
        says: the claim in words: "no row sees its future, at any length".
        cases: draws the scripts from a generator; the same generator gives the same scripts.
        judge: called in the trusted process with the cases and what came back, in order; returns
            if the claim holds. Outcomes with a `problem` never reach it: they fail the claim.
        weight: its share of the exercise's points, relative to the other claims.

    Raises (from `judge`):
        WrongError: if the claim does not hold.
    """

    says: str
    cases: Callable[[np.random.Generator], Sequence[Case]]
    judge: Callable[[Sequence[Case], Sequence[Outcome]], None]
    weight: float = 1.0


@dataclass(frozen=True)
class Hidden:
    """The hidden checks of one exercise.

    Args:
        exercise: its number, "5.2".
        claims: what is graded.
        needs: a module without which the exercise cannot be graded, such as "triton".
    """

    exercise: str
    claims: Sequence[Claim]
    needs: str = ""


@dataclass(frozen=True)
class Misconception:
    """A wrong answer that people give, with what a tutor would say about it.

    Args:
        exercise: "2.2".
        name: short and standard: "polarity inverted".
        answer: the wrong function, class or value.
        says: the tutor's sentences, for someone who does not know the answer; they do not give
            the answer away but point at the thought that went wrong.
        variants: the same wrong thought written in other ways (loops, torch, other names); the
            visible checks must give them the same name.
    """

    exercise: str
    name: str
    answer: object
    says: str
    variants: Sequence[object] = ()
