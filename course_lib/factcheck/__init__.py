"""The audit of the five documents that the course started from (appendix B).

The documents are not part of the course. What they claim is: `data/claims_*.toml` lists every
claim that can be computed, tested or looked up, in our words, and `data/numbers.tsv` every number
that they print, with the claim (or the plain reason) that settles it. Both stand without the
documents.

- `record` reads the lists: `load_claims`, `load_numbers`, `load_disagreements`, `DOCUMENTS`.
- `finding` is what a check returns; `verdicts` runs the check of a claim (`settle`).
- `checks_tables`, `checks_rules`, `checks_models`, `checks_costs` compute the truth.
"""

from course_lib.factcheck.finding import Finding
from course_lib.factcheck.record import (
    DOCUMENTS,
    REASONS,
    Claim,
    load_claims,
    load_disagreements,
    load_numbers,
)
from course_lib.factcheck.verdicts import settle, settle_all

__all__ = [
    "DOCUMENTS",
    "REASONS",
    "Claim",
    "Finding",
    "load_claims",
    "load_disagreements",
    "load_numbers",
    "settle",
    "settle_all",
]
