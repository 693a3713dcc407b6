"""The contract tester: which inputs does an output depend on, and may it?

- `influence`: the map of dependencies of a function; `assert_causal` fails with the offending pair.
- `audit`: a battery of such tests for a model; `models` says how each kind of model is called,
  `attention` tests an attention function, `report` is what the battery answers.
- `targets` finds the model that `python -m course_lib.leaks TARGET` names.
"""

from course_lib.leaks.attention import audit_attention
from course_lib.leaks.audit import audit, rewarded_offset
from course_lib.leaks.influence import LeakError, assert_causal, influence, influence_strength

__all__ = [
    "LeakError",
    "assert_causal",
    "audit",
    "audit_attention",
    "influence",
    "influence_strength",
    "rewarded_offset",
]
