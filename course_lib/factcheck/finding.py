"""What a check finds, and how it becomes a verdict (appendix B).

A check never states its verdict: it says what it compared, and the verdict follows.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from course_lib.factcheck.record import Claim, Verdict


@dataclass(frozen=True)
class Finding:
    """A verdict and what it rests on.

    Attributes:
        verdict: "holds", "wrong" or "depends".
        computed: what was computed, in a few words and numbers.
    """

    verdict: Verdict
    computed: str

    def __str__(self) -> str:
        """Both, in a line."""
        return f"{self.verdict}: {self.computed}"


Check = Callable[[Claim], Finding]
#: Every check by its name; the four modules `checks_*` fill it when they are imported.
CHECKS: dict[str, Check] = {}


def either(true: bool, computed: str) -> Finding:
    """A claim that is true or not."""
    return Finding("holds" if true else "wrong", computed)


def in_cases(cases: Mapping[str, bool], computed: str = "") -> Finding:
    """A claim tried in several cases: true in all, in none, or it depends.

    Args:
        cases: what the case is -> whether the claim is true there.
        computed: numbers to add.
    """
    if not cases:
        raise ValueError("cases: expected at least one; got none")
    words = "; ".join(f"{name}: {'yes' if true else 'no'}" for name, true in cases.items())
    verdict: Verdict = "depends"
    if all(cases.values()):
        verdict = "holds"
    elif not any(cases.values()):
        verdict = "wrong"
    return Finding(verdict, f"{words}. {computed}".strip())


def check(function: Check) -> Check:
    """Enter a function in `CHECKS`, under the name by which the list of claims calls it."""
    name = function.__name__
    if name in CHECKS:
        raise ValueError(f"check: expected each name once; got {name} again")
    CHECKS[name] = function
    return function
