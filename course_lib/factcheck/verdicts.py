"""The check of a claim, run (appendix B)."""

# Importing these four fills CHECKS.
from course_lib.factcheck import checks_costs, checks_models, checks_rules, checks_tables  # noqa: F401
from course_lib.factcheck.finding import CHECKS, Finding
from course_lib.factcheck.record import COMPUTED, Claim, load_claims


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
    return CHECKS[claim.check](claim)


def settle_all() -> dict[str, Finding]:
    """Run the check of every claim that has one, id -> finding; about half a minute."""
    return {c.id: settle(c) for c in load_claims().values() if c.verdict in COMPUTED}
