"""What a check finds, and how it becomes a verdict (appendix B).

A check never states its verdict: it says what it compared, and the verdict follows.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module

from course_lib.factcheck.record import COMPUTED, Claim, Verdict, load_claims

_MODULES = ("checks_tables", "checks_rules", "checks_models", "checks_costs")


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


def checks() -> dict[str, Check]:
    """Every check, name -> function: the public functions of the four modules."""
    found: dict[str, Check] = {}
    for name in _MODULES:
        module = import_module(f"course_lib.factcheck.{name}")
        for key, value in vars(module).items():
            if callable(value) and getattr(value, "is_check", False):
                if key in found:
                    raise ValueError(f"checks: expected each name once; got {key} again")
                found[key] = value
    return found


def check(function: Check) -> Check:
    """Mark a function as a check, to be named in the list of claims."""
    function.is_check = True  # type: ignore[attr-defined]
    return function


def settle(claim: Claim | str) -> Finding:
    """Run the check of a claim.

    Args:
        claim: the claim, or its id.

    Raises:
        ValueError: if there is no such claim, or its verdict is not one that is computed.
    """
    if isinstance(claim, str):
        if claim not in load_claims():
            raise ValueError(f"claim: expected an id such as '002.17'; got {claim!r}")
        claim = load_claims()[claim]
    if claim.verdict not in COMPUTED:
        raise ValueError(f"claim: expected one with a check; got {claim.id} ({claim.verdict})")
    return checks()[claim.check](claim)


def settle_all() -> dict[str, Finding]:
    """Run the check of every claim that has one, id -> finding; about half a minute."""
    return {c.id: settle(c) for c in load_claims().values() if c.verdict in COMPUTED}
