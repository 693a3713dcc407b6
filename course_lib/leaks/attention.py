"""The battery for an attention function: queries, keys, values and a mask."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from course_lib.attention import attention
from course_lib.leaks.report import (
    AuditReport,
    FoundError,
    check_finite,
    first_line,
    run_tests,
    short_name,
)
from course_lib.masks import Mask, causal
from course_lib.validate import check_count

#: (q, k, v [B, H, T, D], mask bool [B, 1, T, T], True = may attend) -> outputs [B, H, T, D].
Attend = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def audit_attention(
    attend: Attend, *, length: int = 6, rng: np.random.Generator | None = None
) -> AuditReport:
    """Run the battery on a function of queries, keys, values and a mask.

    Args:
        attend: (q, k, v [B, H, T, D], mask bool [B, 1, T, T], True = may attend) to [B, H, T, D].
        length: T, at least 3.
        rng: source of the numbers; seeded with 0 if not given.

    Returns:
        The `AuditReport`.

    Raises:
        ValueError: if `length` is below 3.
    """
    check_count("length", length, 3)
    rng = np.random.default_rng(0) if rng is None else rng
    q, k, v = (torch.from_numpy(rng.normal(size=(2, 2, length, 8))) for _ in range(3))
    return run_tests(
        {
            "blocked keys": lambda: _blocked_keys(attend, q, k, v, rng),
            "the reference": lambda: _reference(attend, q, k, v),
            "rows that see nothing": lambda: _nothing_to_see(attend, q, k, v, rng),
            "dtype limits": lambda: _attention_dtypes(attend, q, k, v),
        }
    )


def _blocked_keys(attend: Attend, q: Tensor, k: Tensor, v: Tensor, rng: np.random.Generator) -> str:
    """Row t may not change when keys and values after t do."""
    n = q.shape[2]
    mask = _square(causal(), q)
    before = attend(q, k, v, mask)
    for t in range(n - 1):
        keys, values = k.clone(), v.clone()
        for x in (keys, values):
            noise = rng.normal(0.0, 3.0, size=tuple(x[:, :, t + 1 :].shape))
            x[:, :, t + 1 :] += torch.from_numpy(noise)
        moved = (attend(q, keys, values, mask) - before)[:, :, : t + 1].abs().amax().item()
        if not moved <= 1e-9:
            raise FoundError(f"row {t} moves by {moved:.4f} when later keys and values do")
    return f"{n} rows, causal mask"


def _reference(attend: Attend, q: Tensor, k: Tensor, v: Tensor) -> str:
    """The five steps of chapter 3, in double precision."""
    mask = _square(causal(), q)
    exact, _ = attention(q, k, v, mask)
    error = (attend(q, k, v, mask) - exact).abs().max().item()
    if not error <= 1e-6:
        raise FoundError(f"off by {error:.4f} from softmax after masking")
    return "equal to softmax after masking"


def _nothing_to_see(
    attend: Attend, q: Tensor, k: Tensor, v: Tensor, rng: np.random.Generator
) -> str:
    """A row that may attend to nothing: finite, no blocked values in it, no NaN backward."""
    mask = _square(causal(), q).clone()
    mask[1, :, 0] = False  # the first row of the second text
    leaves = queries, keys, values = [x.clone().requires_grad_() for x in (q, k, v)]
    output = attend(queries, keys, values, mask)
    check_finite(output.detach(), "outputs")
    other = v + torch.from_numpy(rng.normal(size=tuple(v.shape)))
    moved = (attend(q, k, other, mask) - output.detach())[1, :, 0].abs().max().item()
    if moved > 1e-9:
        raise FoundError(f"its output moves by {moved:.4f} with values that it may not see")
    output.square().sum().backward()
    for leaf in leaves:
        if leaf.grad is not None:
            check_finite(leaf.grad, "gradients")
    return "output and gradients are finite and free of blocked values"


def _attention_dtypes(attend: Attend, q: Tensor, k: Tensor, v: Tensor) -> str:
    """Three precisions, small and very negative scores."""
    mask, values = _square(causal(), q), v
    ramp = torch.ones_like(k)
    hard = [(q, k, ""), (-ramp * 90, ramp * 90, " and scores near -20000")]
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for queries, keys, what in hard:
            q, k, v = (x.to(dtype) for x in (queries, keys, values))
            exact, _ = attention(q.double(), k.double(), v.double(), mask)
            where = f"{short_name(dtype)}{what}"
            try:
                output = attend(q, k, v, mask).double()
            except RuntimeError as failure:
                raise FoundError(f"{where}: {first_line(failure)}") from None
            check_finite(output, f"outputs in {where}")
            error = (output - exact).abs().max().item()
            if error > 0.05 * exact.abs().max().item():
                raise FoundError(f"off by {error:.4f} in {where}")
    return "float32, float16 and bfloat16, with scores down to -20000"


def _square(rule: Mask, q: Tensor) -> Tensor:
    return rule.tensor(q.shape[2]).expand(len(q), 1, -1, -1)
