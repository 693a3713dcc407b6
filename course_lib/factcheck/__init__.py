"""The audit of the five documents that the course started from (appendix B).

The documents are not part of the course. What they claim is: `data/claims_*.toml` lists every
claim that can be computed, tested or looked up, in our words, and `data/numbers.tsv` every number
that they print, with the claim (or the plain reason) that settles it. Both stand without the
documents.

- `record` reads the lists: `load_claims`, `load_numbers`, `load_disagreements`, `DOCUMENTS`.
- `finding` is what a check returns, and `settle` runs the check of a claim.
- `checks_tables`, `checks_rules`, `checks_models`, `checks_costs` compute the truth.
- `extract` finds the numbers of a document, for whoever has them:
  `python -m course_tools.build.source_numbers FOLDER`.
"""

from course_lib.factcheck.finding import Finding, settle, settle_all
from course_lib.factcheck.record import (
    DOCUMENTS,
    REASONS,
    Claim,
    load_claims,
    load_disagreements,
    load_numbers,
)

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
