"""Which kernel computes attention in a model, and when it can do without the mask's matrix.

A model calls `attend(q, k, v, mask)`: `five_steps` returns the weights too; `fused` is PyTorch's
choice of a kernel for the device at hand, which never stores them.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor
from torch.nn import functional as F

from course_lib.attention import attention
from course_lib.masks import Mask

#: attend(q, k, v, mask) -> (outputs, weights or None). Queries [B, H, T, D]; keys and values
#: [B, G, S, D], of which each serves H / G query heads; the mask is bool, True = may attend,
#: broadcastable to [B, H, T, S], or None for no mask.
Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor | None]]


def five_steps(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Attention as `course_lib.attention` computes it; see `Attend`.

    A query that sees nothing gets zeros, as from fused kernels.
    """
    return attention(q, k, v, mask, empty_rows="zeros")


def fused(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, is_causal: bool = False
) -> tuple[Tensor, None]:
    """Attention by `scaled_dot_product_attention`; see `Attend`.

    Args:
        q: queries.
        k: keys.
        v: values.
        mask: which keys each query may attend to.
        is_causal: instead of a mask: as many queries as keys, under k <= q.
    """
    shared = q.shape[1] != k.shape[1]
    y = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=is_causal, enable_gqa=shared
    )
    return y, None


def without_matrix(rule: Mask | None, q_pos: Tensor, k_pos: Tensor, seen: int) -> Attend | None:
    """A kernel that obeys the rule without a matrix, or None if there is none.

    It is found by what is known of the rule and by shapes; to look at values would make every
    decoding step wait for the device.

    Args:
        rule: which keys a query may attend to; None for all.
        q_pos: positions of the queries, [T] or [B, T].
        k_pos: positions of the keys, [S] or [B, S].
        seen: positions before the first query; the keys are in order if none of them is missing.
    """
    if q_pos.ndim > 1 or k_pos.ndim > 1:
        return None
    if rule is None or rule.is_full:
        return fused
    if rule.is_causal and len(k_pos) == seen + len(q_pos):
        if len(q_pos) == 1:
            return fused  # one query, which sees all keys
        if seen == 0:
            return partial(fused, is_causal=True)
    return None
