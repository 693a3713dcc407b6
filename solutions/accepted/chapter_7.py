"""Right answers to the exercises of chapter 7 in different styles: all get full marks."""

import importlib.util
import math

import numpy as np
import torch

from course_tools.exercise_bank.load import run_source

# --- 7.1 -----------------------------------------------------------------------------------------


def update_loop(m, l, acc, scores, values):
    new_m, new_l, new_acc = m.copy(), l.copy(), acc.copy()
    for i, row in enumerate(scores):
        for score, value in zip(row, values, strict=True):
            if score == -np.inf:
                continue
            if score > new_m[i]:
                shrink = math.exp(new_m[i] - score)
                new_l[i] *= shrink
                new_acc[i] *= shrink
                new_m[i] = score
            weight = math.exp(score - new_m[i])
            new_l[i] += weight
            new_acc[i] += weight * value
    return new_m, new_l, new_acc


def update_torch(m, l, acc, scores, values):
    m, l, acc, scores, values = (torch.from_numpy(a) for a in (m, l, acc, scores, values))
    new_m = torch.maximum(m, scores.amax(dim=1))
    nothing = new_m == -torch.inf
    shrink = torch.exp(m - new_m).masked_fill(nothing, 1.0)
    p = torch.exp(scores - new_m[:, None]).masked_fill(nothing[:, None], 0.0)
    return new_m, shrink * l + p.sum(1), torch.addcmul(p @ values, shrink[:, None], acc)


def update_rows_that_see(m, l, acc, scores, values):
    """Only the rows to which the block shows something."""
    new_m, new_l, new_acc = m.copy(), l.copy(), acc.copy()
    seen = np.flatnonzero((scores > -np.inf).any(axis=1))
    top = np.maximum(m[seen], scores[seen].max(axis=1))
    shrink = np.exp(m[seen] - top)
    p = np.exp(scores[seen] - top[:, None])
    new_m[seen] = top
    new_l[seen] = l[seen] * shrink + p.sum(axis=1)
    new_acc[seen] = acc[seen] * shrink[:, None] + np.einsum("qk,kd->qd", p, values)
    return [new_m, new_l, new_acc]


def update_nan_to_num(m, l, acc, scores, values):
    with np.errstate(invalid="ignore"):
        new_m = np.maximum(m, scores.max(axis=1))
        shrink = np.nan_to_num(np.exp(m - new_m), nan=0.0)
        p = np.nan_to_num(np.exp(scores - new_m[:, None]), nan=0.0)
    return new_m, l * shrink + p.sum(axis=1), acc * shrink[:, None] + p.dot(values)


# --- 7.2 -----------------------------------------------------------------------------------------


def tiles_by_corners(n, block):
    count = {"full": 0, "partial": 0, "empty": 0}
    for i in range(0, n, block):
        last_row = min(i + block, n) - 1
        for j in range(0, n, block):
            last_column = min(j + block, n) - 1
            if last_column <= i:
                count["full"] += 1
            elif j <= last_row:
                count["partial"] += 1
            else:
                count["empty"] += 1
    return count


def tiles_formula(n, block):
    r = math.ceil(n / block)
    below = r * (r - 1) // 2
    last = n - (r - 1) * block
    partial = (0 if block == 1 else r - 1) + (last > 1)
    return dict(full=below + r - partial, partial=int(partial), empty=below)


def tiles_numpy(n, block):
    first = np.arange(0, n, block)
    last = np.minimum(first + block, n) - 1
    full = last[None, :] <= first[:, None]
    empty = first[None, :] > last[:, None]
    return {"full": full.sum(), "empty": empty.sum(), "partial": (~full & ~empty).sum()}


# --- 7.3 -----------------------------------------------------------------------------------------


def flash_two_kinds(q, k, v, block):
    """Full tiles first, without a comparison; then the partial ones."""
    queries, d = q.shape
    behind = len(k) - queries
    output = np.zeros((queries, v.shape[1]))

    def take(state, rows, j, visible):
        m, total, acc = state
        s = rows @ k[j : j + block].astype(np.float64).T
        if visible is not None:
            s = np.where(visible, s, -np.inf)
        top = np.maximum(m, s.max(axis=1))
        base = np.where(np.isneginf(top), 0.0, top)
        p, shrink = np.exp(s - base[:, None]), np.exp(m - base)
        return top, total * shrink + p.sum(1), acc * shrink[:, None] + p @ v[j : j + block]

    for i in range(0, queries, block):
        rows = q[i : i + block].astype(np.float64) * d**-0.5
        at = np.arange(i, i + len(rows))[:, None] + behind
        state = np.full(len(rows), -np.inf), np.zeros(len(rows)), np.zeros((len(rows), v.shape[1]))
        j = 0
        while j <= at[-1, 0]:
            keys = np.arange(j, min(j + block, len(k)))[None]
            state = take(state, rows, j, None if keys[0, -1] <= at[0, 0] else keys <= at)
            j += block
        output[i : i + block] = state[2] / state[1][:, None]
    return output.astype(q.dtype)


def flash_torch(q, k, v, block):
    q, k, v = (torch.from_numpy(a).double() for a in (q, k, v))
    out = torch.empty(len(q), v.shape[1], dtype=torch.float64)
    shift = len(k) - len(q)
    for i in range(0, len(q), block):
        stop = min(i + block, len(q))
        top = torch.full((stop - i,), -torch.inf, dtype=torch.float64)
        low = torch.zeros_like(top)
        mix = torch.zeros(stop - i, v.shape[1], dtype=torch.float64)
        for j in range(0, stop + shift, block):
            s = q[i:stop] @ k[j : j + block].mT / q.shape[1] ** 0.5
            at = torch.arange(i + shift, stop + shift)[:, None]
            s = s.masked_fill(torch.arange(j, j + s.shape[1]) > at, -torch.inf)
            new = torch.maximum(top, s.amax(dim=1))
            p, fade = torch.exp(s - new[:, None]), torch.exp(top - new)
            low, mix, top = low * fade + p.sum(1), mix * fade[:, None] + p @ v[j : j + block], new
        out[i:stop] = mix / low[:, None]
    return out


def flash_backwards(q, k, v, block):
    """From the diagonal towards the past; log-sum-exp instead of maximum and sum."""
    n, shift = len(q), len(k) - len(q)
    result = np.empty((n, v.shape[1]), dtype=np.float64)
    for i in range(0, n, block):
        at = shift + np.arange(i, min(i + block, n))
        starts = range(0, int(at[-1]) + 1, block)
        lse, mean = np.full(len(at), -np.inf), np.zeros((len(at), v.shape[1]))
        for j in reversed(starts):
            s = np.einsum("qd,kd->qk", q[i : i + block], k[j : j + block]).astype(np.float64)
            s /= math.sqrt(q.shape[1])
            s[(j + np.arange(s.shape[1]))[None] > at[:, None]] = -np.inf
            here = np.logaddexp.reduce(s, axis=1)
            both = np.logaddexp(lse, here)
            base = np.where(np.isneginf(both), 0, both)
            mean = mean * np.exp(lse - base)[:, None] + np.exp(s - base[:, None]) @ v[j : j + block]
            lse = both
        result[i : i + block] = mean
    return result


# --- 7.4 -----------------------------------------------------------------------------------------


def flops_summed(n, d, heads, batch, causal):
    pairs = sum(range(1, n + 1)) if causal else n**2
    one_product = 2 * d * pairs
    return batch * heads * (one_product * 2 + one_product * 5)


def flops_numpy(n, d, heads, batch, causal):
    n, d, heads, batch = (np.int64(x) for x in (n, d, heads, batch))
    pairs = (n * n + n) // 2 if causal else n * n
    return 14 * pairs * d * heads * batch


def flops_by_name(n, d, heads, batch, causal):
    products = ("S", "O", "S again", "dV", "dP", "dQ", "dK")
    visible = n * n - (n * (n - 1) // 2 if causal else 0)
    return int(sum(2 * visible * d for _ in products)) * heads * batch


# --- 7.5 -----------------------------------------------------------------------------------------

_HEAD = """
import math
import torch
import triton
import triton.language as tl

def window_kernel(q_ptr, k_ptr, v_ptr, o_ptr, n_tokens, scale,
                  WINDOW: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr):
    block, head = tl.program_id(0), tl.program_id(1)
    q_pos = block * BLOCK + tl.arange(0, BLOCK)
    d = tl.arange(0, D)
    q_at = (head * n_tokens + q_pos[:, None]) * D + d[None, :]
    q = tl.load(q_ptr + q_at, mask=q_pos[:, None] < n_tokens, other=0.0)
    peak = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    acc = tl.zeros([BLOCK, D], tl.float32)
"""
_FOOT = """
    o = acc / total[:, None]
    tl.store(o_ptr + q_at, o, mask=q_pos[:, None] < n_tokens)

def triton_attention(q, k, v, window):
    heads, n_tokens, D = q.shape
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    o = torch.empty_like(q)
    triton.jit(window_kernel)[(triton.cdiv(n_tokens, 16), heads)](
        q, k, v, o, n_tokens, 1 / math.sqrt(D), WINDOW=window, D=D, BLOCK=16)
    return o
"""
#: From the past towards the queries, with a guard against rows that have seen nothing.
_GUARDED = """
    first = tl.maximum(block * BLOCK - WINDOW + 1, 0) // BLOCK * BLOCK
    end = tl.minimum((block + 1) * BLOCK, n_tokens)
    for start in range(first, end, BLOCK):
        k_pos = start + tl.arange(0, BLOCK)
        inside = k_pos[:, None] < n_tokens
        k_at = head * n_tokens * D + k_pos[:, None] * D + d[None, :]
        k = tl.load(k_ptr + k_at, mask=inside, other=0.0)
        v = tl.load(v_ptr + k_at, mask=inside, other=0.0)
        s = tl.dot(q, tl.trans(k)) * scale
        seen = (k_pos[None, :] <= q_pos[:, None]) & (k_pos[None, :] + WINDOW > q_pos[:, None])
        s = tl.where(seen, s, float("-inf"))
        new_peak = tl.maximum(peak, tl.max(s, axis=1))
        base = tl.where(new_peak == float("-inf"), 0.0, new_peak)
        p = tl.exp(s - base[:, None])
        shrink = tl.exp(peak - base)
        total = total * shrink + tl.sum(p, axis=1)
        acc = acc * shrink[:, None] + tl.dot(p, v)
        peak = new_peak
"""
#: Blocks of keys that begin at the first visible key, wherever that is.
_UNALIGNED = """
    start = tl.maximum(block * BLOCK - WINDOW + 1, 0)
    while start < (block + 1) * BLOCK:
        k_pos = start + tl.arange(0, BLOCK)
        there = (k_pos < n_tokens) & (k_pos < (block + 1) * BLOCK)
        k_at = (head * n_tokens + k_pos[:, None]) * D + d[None, :]
        k = tl.load(k_ptr + k_at, mask=there[:, None], other=0.0)
        v = tl.load(v_ptr + k_at, mask=there[:, None], other=0.0)
        ago = q_pos[:, None] - k_pos[None, :]
        s = tl.dot(q, tl.trans(k)) * scale
        s = tl.where((ago >= 0) & (ago < WINDOW) & there[None, :], s, -1e38)
        new_peak = tl.maximum(peak, tl.max(s, axis=1))
        p = tl.where(s > -1e38, tl.exp(s - new_peak[:, None]), 0.0)
        shrink = tl.exp(peak - new_peak)
        total = total * shrink + tl.sum(p, axis=1)
        acc = acc * shrink[:, None] + tl.dot(p, v)
        peak = new_peak
        start += BLOCK
"""
#: The queries' own block first, then whatever is left of the window; powers of 2.
_OWN_FIRST = """
    log2e = 1.4426950408889634
    j = block
    while (j >= 0) & ((j + 1) * BLOCK > block * BLOCK - WINDOW + 1):
        k_pos = j * BLOCK + tl.arange(0, BLOCK)
        k_at = (head * n_tokens + k_pos[None, :]) * D + d[:, None]
        k = tl.load(k_ptr + k_at, mask=k_pos[None, :] < n_tokens, other=0.0)
        s = tl.dot(q, k) * (scale * log2e)
        ago = q_pos[:, None] - k_pos[None, :]
        s = tl.where((ago < 0) | (ago >= WINDOW), float("-inf"), s)
        higher = tl.maximum(peak, tl.max(s, 1))
        p, shrink = tl.exp2(s - higher[:, None]), tl.exp2(peak - higher)
        v_at = (head * n_tokens + k_pos[:, None]) * D + d[None, :]
        v = tl.load(v_ptr + v_at, mask=k_pos[:, None] < n_tokens, other=0.0)
        acc = tl.dot(p, v, acc * shrink[:, None])
        total, peak = total * shrink + tl.sum(p, 1), higher
        j -= 1
"""


def _kernel(loop, name):
    return run_source(_HEAD + loop + _FOOT, "triton_attention", f"<accepted {name}>")


_LOOPS = {"guarded": _GUARDED, "unaligned": _UNALIGNED, "own first": _OWN_FIRST}
KERNELS = (
    [_kernel(loop, name) for name, loop in _LOOPS.items()]
    if importlib.util.find_spec("triton")
    else []
)

ACCEPTED = {
    "7.1": [update_loop, update_torch, update_rows_that_see, update_nan_to_num],
    "7.2": [tiles_by_corners, tiles_formula, tiles_numpy],
    "7.3": [flash_two_kinds, flash_torch, flash_backwards],
    "7.4": [flops_summed, flops_numpy, flops_by_name],
    "7.5": KERNELS,
}
