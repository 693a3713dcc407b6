"""The teaching kernel of chapter 7, and the first steps from it to the tuned one, as switches.

`benchmarks/flash_gpu.py` times each step on a GPU; without any switch this is the kernel that the
chapter builds. The steps that follow (both kinds of tiles in one loop, order of the rows, TMA
descriptors, tile sizes tried out) are the library's own kernel and its options. Causal and forward
only; this module imports triton.
"""

# Arguments of a kernel have no Python types; constexpr marks what is known when it is compiled.
# ruff: noqa: ANN001, ANN201, ANN202

import math

import torch
import triton
import triton.language as tl

from course_lib.flash.triton_tuning import Config


@triton.jit
def _visit(
    peak, total, acc, q, k_ptr, v_ptr, head, start, q_pos, n_keys, scale,
    D: tl.constexpr, BLOCK_K: tl.constexpr, EXP2: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """One tile of keys. With EXP2 the scale carries log2(e), and scaling joins the subtraction."""
    k_pos = start + tl.arange(0, BLOCK_K)
    at = head * n_keys * D + k_pos[:, None] * D + tl.arange(0, D)[None, :]
    if MASKED:
        inside = k_pos[:, None] < n_keys
        k = tl.load(k_ptr + at, mask=inside, other=0.0)
        v = tl.load(v_ptr + at, mask=inside, other=0.0)
    else:
        k = tl.load(k_ptr + at)
        v = tl.load(v_ptr + at)
    s = tl.dot(q, tl.trans(k), input_precision="ieee")
    if not EXP2:
        s = s * scale
    if MASKED:
        s = tl.where(k_pos[None, :] <= q_pos[:, None], s, float("-inf"))
    if EXP2:
        new_peak = tl.maximum(peak, tl.max(s, axis=1) * scale)
        p = tl.math.exp2(s * scale - new_peak[:, None])
        shrink = tl.math.exp2(peak - new_peak)
    else:
        new_peak = tl.maximum(peak, tl.max(s, axis=1))
        p = tl.exp(s - new_peak[:, None])
        shrink = tl.exp(peak - new_peak)
    total = total * shrink + tl.sum(p, axis=1)
    acc = acc * shrink[:, None] + tl.dot(p.to(v.dtype), v, input_precision="ieee")
    return new_peak, total, acc


@triton.jit
def step_kernel(
    q_ptr, k_ptr, v_ptr, o_ptr, n_queries, n_keys, scale,
    D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    EXP2: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """BLOCK_Q queries of one head walk over the keys that they may see, in one loop or in two."""
    first = tl.program_id(0) * BLOCK_Q
    row = first + tl.arange(0, BLOCK_Q)
    offset = n_keys - n_queries  # the queries are the last positions
    head = tl.program_id(1).to(tl.int64)
    q_at = head * n_queries * D + row[:, None] * D + tl.arange(0, D)[None, :]
    q = tl.load(q_ptr + q_at, mask=row[:, None] < n_queries, other=0.0)
    peak = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_Q], tl.float32)
    acc = tl.zeros([BLOCK_Q, D], tl.float32)
    q_pos = row + offset
    full_end = 0
    if SPLIT:
        full_end = (first + offset + 1) // BLOCK_K * BLOCK_K
        for start in range(0, full_end, BLOCK_K):
            peak, total, acc = _visit(
                peak, total, acc, q, k_ptr, v_ptr, head, start, q_pos, n_keys, scale,
                D, BLOCK_K, EXP2, False,
            )  # fmt: skip
    for start in range(full_end, tl.minimum(first + BLOCK_Q + offset, n_keys), BLOCK_K):
        peak, total, acc = _visit(
            peak, total, acc, q, k_ptr, v_ptr, head, start, q_pos, n_keys, scale,
            D, BLOCK_K, EXP2, True,
        )  # fmt: skip
    o = acc / total[:, None]
    tl.store(o_ptr + q_at, o.to(o_ptr.dtype.element_ty), mask=row[:, None] < n_queries)


def step_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    exp2: bool = False,
    split: bool = False,
    config: Config,
) -> torch.Tensor:
    """Causal attention by the teaching kernel with some of its steps. Shapes are not checked.

    Args:
        q: queries [B, H, Tq, D], contiguous, D a power of two of at least 16.
        k: keys [B, H, Tk, D], contiguous, Tk >= Tq; the queries are the last positions.
        v: values, likewise.
        exp2: base 2, with log2(e) folded into the scale.
        split: FULL tiles in a loop of their own.
        config: tiles, warps and stages.

    Returns:
        [B, H, Tq, D], in the dtype of q.
    """
    batch, heads, n_queries, D = q.shape
    o = torch.empty_like(q)
    scale = 1 / math.sqrt(D) * (math.log2(math.e) if exp2 else 1)
    step_kernel[(-(-n_queries // config.block_q), batch * heads)](
        q, k, v, o, n_queries, k.shape[2], scale,
        D=D, BLOCK_Q=config.block_q, BLOCK_K=config.block_k, EXP2=exp2, SPLIT=split,
        num_warps=config.warps, num_stages=config.stages,
    )  # fmt: skip
    return o
