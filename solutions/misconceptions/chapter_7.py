"""Wrong answers to the exercises of chapter 7, and what a tutor says about them (teachers only)."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from course_tools.exercise_bank.claims import Misconception
from course_tools.exercise_bank.load import run_source

# --- 7.1 online_softmax_update -------------------------------------------------------------------


def _finite(m):
    return np.where(m == -np.inf, 0, m)


def not_rescaled(m, l, acc, scores, values):
    new_m = np.maximum(m, scores.max(axis=1))
    p = np.exp(scores - _finite(new_m)[:, None])
    return new_m, l + p.sum(axis=1), acc + p @ values


def not_rescaled_loop(m, l, acc, scores, values):
    m, l, acc = m.copy(), l.copy(), acc.copy()
    for i in range(len(m)):
        m[i] = max(m[i], max(scores[i]))
        for j in range(len(values)):
            if scores[i, j] > -np.inf:
                weight = math.exp(scores[i, j] - m[i])
                l[i] += weight
                acc[i] += weight * values[j]
    return m, l, acc


def acc_not_rescaled(m, l, acc, scores, values):
    new_m = np.maximum(m, scores.max(axis=1))
    p = np.exp(scores - _finite(new_m)[:, None])
    shrink = np.exp(m - _finite(new_m))
    return new_m, l * shrink + p.sum(axis=1), acc + p @ values


def acc_not_rescaled_torch(m, l, acc, scores, values):
    m, l, acc, s, v = (torch.from_numpy(a) for a in (m, l, acc, scores, values))
    new_m = torch.maximum(m, s.amax(dim=1))
    base = new_m.masked_fill(new_m.isneginf(), 0)
    p = (s - base[:, None]).exp()
    return new_m, l * (m - base).exp() + p.sum(1), acc + p @ v


def sum_not_rescaled(m, l, acc, scores, values):
    new_m = np.maximum(m, scores.max(axis=1))
    p = np.exp(scores - _finite(new_m)[:, None])
    shrink = np.exp(m - _finite(new_m))
    return new_m, l + p.sum(axis=1), acc * shrink[:, None] + p @ values


def factor_inverted(m, l, acc, scores, values):
    new_m = np.maximum(m, scores.max(axis=1))
    p = np.exp(scores - _finite(new_m)[:, None])
    with np.errstate(all="ignore"):
        grow = np.where(m == -np.inf, 0, np.exp(_finite(new_m) - _finite(m)))
    return new_m, l * grow + p.sum(axis=1), acc * grow[:, None] + p @ values


def block_maximum(m, l, acc, scores, values):
    top = scores.max(axis=1)
    with np.errstate(all="ignore"):
        p = np.exp(scores - _finite(top)[:, None])
        shrink = np.exp(m - _finite(top))
        return top, l * shrink + p.sum(axis=1), acc * shrink[:, None] + p @ values


def empty_row_nan(m, l, acc, scores, values):
    with np.errstate(all="ignore"):
        new_m = np.maximum(m, scores.max(axis=1))
        shrink = np.exp(m - new_m)
        p = np.exp(scores - new_m[:, None])
        return new_m, l * shrink + p.sum(axis=1), acc * shrink[:, None] + p @ values


def empty_row_nan_loop(m, l, acc, scores, values):
    out_m, out_l, out_acc = m.copy(), l.copy(), acc.copy()
    with np.errstate(all="ignore"):
        for i, row in enumerate(scores):
            out_m[i] = np.maximum(m[i], row.max())
            factor = np.exp(m[i] - out_m[i])
            powers = np.exp(row - out_m[i])
            out_l[i] = factor * l[i] + powers.sum()
            out_acc[i] = factor * acc[i] + powers @ values
    return out_m, out_l, out_acc


def normalised_each_time(m, l, acc, scores, values):
    new_m = np.maximum(m, scores.max(axis=1))
    p = np.exp(scores - _finite(new_m)[:, None])
    shrink = np.exp(m - _finite(new_m))
    new_l = l * shrink + p.sum(axis=1)
    new_acc = (acc * shrink[:, None] + p @ values) / np.where(new_l > 0, new_l, 1)[:, None]
    return new_m, new_l, new_acc


def maximum_not_subtracted(m, l, acc, scores, values):
    with np.errstate(all="ignore"):
        p = np.exp(scores)
        return np.maximum(m, scores.max(axis=1)), l + p.sum(axis=1), acc + p @ values


def one_maximum_for_all(m, l, acc, scores, values):
    new_m = np.full_like(m, max(m.max(), scores.max()))
    p = np.exp(scores - _finite(new_m)[:, None])
    shrink = np.exp(m - _finite(new_m))
    return new_m, l * shrink + p.sum(axis=1), acc * shrink[:, None] + p @ values


def old_block_forgotten(m, l, acc, scores, values):
    top = _finite(scores.max(axis=1))
    p = np.exp(scores - top[:, None])
    return scores.max(axis=1), p.sum(axis=1), p @ values


def values_forgotten(m, l, acc, scores, values):
    new_m = np.maximum(m, scores.max(axis=1))
    p = np.exp(scores - _finite(new_m)[:, None])
    shrink = np.exp(m - _finite(new_m))
    return new_m, l * shrink + p.sum(axis=1), (acc + p @ values) * shrink[:, None]


def in_place(m, l, acc, scores, values):
    new_m = np.maximum(m, scores.max(axis=1))
    p = np.exp(scores - _finite(new_m)[:, None])
    shrink = np.exp(m - _finite(new_m))
    l *= shrink
    l += p.sum(axis=1)
    acc *= shrink[:, None]
    acc += p @ values
    m[:] = new_m
    return m, l, acc


def finite_for_nothing(m, l, acc, scores, values):
    """A large negative number for a row that has seen nothing."""
    new_m = np.maximum(np.maximum(m, scores.max(axis=1)), -1e30)
    p = np.exp(np.maximum(scores, -1e30) - new_m[:, None])
    shrink = np.exp(np.maximum(m, -1e30) - new_m)
    return new_m, l * shrink + p.sum(axis=1), acc * shrink[:, None] + p @ values


# --- 7.2 count_tiles -----------------------------------------------------------------------------


def _tiles(n, block, full=None, partial=None, empty=None):
    rows = -(-n // block)
    single = rows if block == 1 else int(n % block == 1)
    right = {"full": rows * (rows - 1) // 2 + single, "partial": rows - single,
             "empty": rows * (rows - 1) // 2}  # fmt: skip
    given = {"full": full, "partial": partial, "empty": empty}
    return {name: right[name] if value is None else value for name, value in given.items()}


def remainder_dropped(n, block):
    rows = n // block
    single = rows if block == 1 else 0
    below = rows * (rows - 1) // 2
    return {"full": below + single, "partial": rows - single, "empty": below}


def remainder_dropped_loop(n, block):
    count = {"full": 0, "partial": 0, "empty": 0}
    for i in range(n // block):
        for j in range(n // block):
            name = "partial" if i == j and block > 1 else "full" if j <= i else "empty"
            count[name] += 1
    return count


def diagonal_always_partial(n, block):
    rows = -(-n // block)
    return {"full": rows * (rows - 1) // 2, "partial": rows, "empty": rows * (rows - 1) // 2}


def diagonal_always_partial_loop(n, block):
    starts = list(range(0, n, block))
    full = sum(1 for q in starts for k in starts if k < q)
    return {"full": full, "partial": len(starts), "empty": full}


def last_tile_forgotten(n, block):
    rows = -(-n // block)
    single = rows if block == 1 else 0
    return _tiles(n, block, full=rows * (rows - 1) // 2 + single, partial=rows - single)


def small_block_forgotten(n, block):
    rows = -(-n // block)
    single = int(n % block == 1) if block > 1 else 0
    return _tiles(n, block, full=rows * (rows - 1) // 2 + single, partial=rows - single)


def diagonal_full(n, block):
    rows = -(-n // block)
    return {"full": rows * (rows + 1) // 2, "partial": 0, "empty": rows * (rows - 1) // 2}


def diagonal_empty(n, block):
    right = _tiles(n, block)
    return _tiles(n, block, partial=0, empty=right["empty"] + right["partial"])


def full_and_empty_swapped(n, block):
    right = _tiles(n, block)
    return {"full": right["empty"], "partial": right["partial"], "empty": right["full"]}


def visible_counted_together(n, block):
    right = _tiles(n, block)
    return _tiles(n, block, full=right["full"] + right["partial"])


def half_of_all(n, block):
    rows = -(-n // block)
    return _tiles(n, block, full=rows * rows // 2, empty=rows * rows // 2, partial=rows)


def cells_counted(n, block):
    return {"full": n * (n - 1) // 2, "partial": n, "empty": n * (n - 1) // 2}


def mask_built(n, block):
    mask = np.tri(n, dtype=bool)
    count = {"full": 0, "partial": 0, "empty": 0}
    for i in range(0, n, block):
        for j in range(0, n, block):
            tile = mask[i : i + block, j : j + block]
            count["full" if tile.all() else "partial" if tile.any() else "empty"] += 1
    return count


# --- 7.3 flash_attention -------------------------------------------------------------------------


def plain(q, k, v, block):
    """All scores at once."""
    s = q @ k.T / math.sqrt(q.shape[1])
    s[np.arange(len(k)) > (np.arange(len(q)) + len(k) - len(q))[:, None]] = -np.inf
    s = np.exp(s - s.max(axis=1, keepdims=True))
    return (s / s.sum(axis=1, keepdims=True)) @ v


def plain_torch(q, k, v, block):
    mask = torch.ones(len(q), len(k), dtype=torch.bool).tril(len(k) - len(q))
    q, k, v = (torch.from_numpy(a)[None, None].double() for a in (q, k, v))
    s = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~mask, -torch.inf)
    return (s.softmax(-1) @ v)[0, 0]


def row_strips(q, k, v, block):
    """Blocks of queries against all their keys: softmax needs no trick then."""
    out = np.empty((len(q), v.shape[1]))
    for i in range(0, len(q), block):
        q_pos = np.arange(i, min(i + block, len(q))) + len(k) - len(q)
        end = min(-(-(q_pos[-1] + 1) // block) * block, len(k))
        s = q[i : i + block] @ k[:end].T / math.sqrt(q.shape[1])
        s = np.where(np.arange(end) <= q_pos[:, None], s, -np.inf)
        p = np.exp(s - s.max(axis=1, keepdims=True))
        out[i : i + block] = (p / p.sum(axis=1, keepdims=True)) @ v[:end]
    return out


def row_strips_loop(q, k, v, block):
    """The same without a thought for the future."""
    parts, i = [], 0
    while i < len(q):
        s = q[i : i + block] @ k.T / np.sqrt(q.shape[1])
        for r, row in enumerate(s):
            row[i + r + len(k) - len(q) + 1 :] = -np.inf
        p = np.exp(s - s.max(axis=1, keepdims=True))
        parts.append((p / p.sum(axis=1, keepdims=True)) @ v)
        i += block
    return np.concatenate(parts)


def _tiled(q, k, v, block, *, offset=None, scale=None, rescale=True, skip=True, masked=True,
           diagonal=0, peak=True, divide=True, last=True, tile_softmax=False, own=True):  # fmt: skip
    """Flash attention with switches for what can go wrong."""
    offset = len(k) - len(q) if offset is None else offset
    scale = 1 / math.sqrt(q.shape[1]) if scale is None else scale
    out = np.zeros((len(q), v.shape[1]))
    with np.errstate(all="ignore"):
        for i in range(0, len(q), block):
            rows = q[i : i + block] * scale
            if not last and len(rows) < block:
                continue
            q_pos = offset + i + np.arange(len(rows))
            m = np.full((len(rows), 1), -np.inf if peak else 0.0)
            total, acc, seen = 0.0, 0.0, 0
            end = q_pos[-1] + 1 if skip else len(k)
            for j in range(0, min(end, len(k)), block):
                s = rows @ k[j : j + block].T
                if not last and s.shape[1] < block:
                    continue
                if not own and j + s.shape[1] > q_pos[0] + 1:
                    continue
                if masked:
                    s[j + np.arange(s.shape[1]) > q_pos[:, None] + diagonal] = -np.inf
                new_m = np.maximum(m, s.max(axis=1, keepdims=True)) if peak else m
                base = _finite(new_m)
                p = np.exp(s - base)
                if tile_softmax:
                    sums = p.sum(axis=1, keepdims=True)
                    p, seen = p / np.where(sums > 0, sums, 1), seen + (sums > 0)
                shrink = np.exp(m - base) if rescale and not tile_softmax else 1.0
                total = total * shrink + p.sum(axis=1, keepdims=True)
                acc = acc * shrink + p @ v[j : j + block]
                m = new_m
            out[i : i + block] = acc / total if divide and not tile_softmax else (
                acc / np.maximum(seen, 1) if tile_softmax else acc
            )  # fmt: skip
    return out


def flash_not_rescaled(q, k, v, block):
    return _tiled(q, k, v, block, rescale=False)


def flash_not_rescaled_torch(q, k, v, block):
    q, k, v = (torch.from_numpy(a).double() for a in (q, k, v))
    offset, out = len(k) - len(q), []
    for i in range(0, len(q), block):
        rows = q[i : i + block] / math.sqrt(q.shape[1])
        at = torch.arange(i, i + len(rows))[:, None] + offset
        m = torch.full((len(rows), 1), -torch.inf, dtype=torch.float64)
        total, acc = torch.zeros_like(m), torch.zeros(len(rows), v.shape[1], dtype=torch.float64)
        for j in range(0, int(at.max()) + 1, block):
            s = rows @ k[j : j + block].T
            s = s.masked_fill(torch.arange(j, j + s.shape[1]) > at, -torch.inf)
            m = torch.maximum(m, s.amax(dim=1, keepdim=True))
            p = (s - m).exp()
            total, acc = total + p.sum(1, keepdim=True), acc + p @ v[j : j + block]
        out.append(acc / total)
    return torch.cat(out)


def corner_top_left(q, k, v, block):
    return _tiled(q, k, v, block, offset=0)


def no_scale(q, k, v, block):
    return _tiled(q, k, v, block, scale=1.0)


def scaled_by_d(q, k, v, block):
    return _tiled(q, k, v, block, scale=1 / q.shape[1])


def scaled_by_block(q, k, v, block):
    return _tiled(q, k, v, block, scale=1 / math.sqrt(block))


def future_tiles_computed(q, k, v, block):
    return _tiled(q, k, v, block, skip=False)


def future_tiles_computed_loop(q, k, v, block):
    """Row by row, all key blocks for every row."""
    offset, out = len(k) - len(q), np.zeros((len(q), v.shape[1]))
    blocks = [slice(j, j + block) for j in range(0, len(k), block)]
    for i, row in enumerate(q):
        m, total, acc = -np.inf, 0.0, np.zeros(v.shape[1])
        for part in blocks:
            s = k[part] @ row / math.sqrt(len(row))
            s = np.where(np.arange(len(k))[part] <= i + offset, s, -np.inf)
            new = max(m, s.max())
            p, shrink = np.exp(s - new), np.exp(m - new)
            total, acc, m = total * shrink + p.sum(), acc * shrink + p @ v[part], new
        out[i] = acc / total
    return out


def not_causal(q, k, v, block):
    return _tiled(q, k, v, block, skip=False, masked=False)


def causal_by_tiles(q, k, v, block):
    return _tiled(q, k, v, block, masked=False)


def causal_by_tiles_loop(q, k, v, block):
    rows = []
    for i in range(len(q)):
        last_of_tile = (i // block + 1) * block - 1
        end = min(min(last_of_tile, len(q) - 1) + len(k) - len(q), len(k) - 1)
        end = min((end // block + 1) * block, len(k))
        s = k[:end] @ q[i] / math.sqrt(q.shape[1])
        p = np.exp(s - s.max())
        rows.append(p @ v[:end] / p.sum())
    return np.array(rows)


def own_key_blocked(q, k, v, block):
    return _tiled(q, k, v, block, diagonal=-1)


def next_key_visible(q, k, v, block):
    return _tiled(q, k, v, block, diagonal=1, skip=False)


def maximum_not_used(q, k, v, block):
    return _tiled(q, k, v, block, peak=False)


def not_divided(q, k, v, block):
    return _tiled(q, k, v, block, divide=False)


def remainder_left_out(q, k, v, block):
    return _tiled(q, k, v, block, last=False)


def softmax_by_tile(q, k, v, block):
    return _tiled(q, k, v, block, tile_softmax=True)


def diagonal_tiles_left_out(q, k, v, block):
    return _tiled(q, k, v, block, own=False)


# --- 7.4 attention_flops -------------------------------------------------------------------------


def _flops(n, d, heads, batch, causal, products=7, each=2, pairs=None):
    if pairs is None:
        pairs = n * (n + 1) // 2 if causal else n * n
    return products * each * d * pairs * heads * batch


def forward_only(n, d, heads, batch, causal):
    return _flops(n, d, heads, batch, causal, products=2)


def forward_only_loop(n, d, heads, batch, causal):
    total = 0
    visible = sum(i + 1 for i in range(n)) if causal else n**2
    for _ in range(batch):
        for _ in range(heads):
            total += 2 * 2 * visible * d
    return total


def backward_only(n, d, heads, batch, causal):
    return _flops(n, d, heads, batch, causal, products=5)


def scores_made_once(n, d, heads, batch, causal):
    return _flops(n, d, heads, batch, causal, products=6)


def three_times_forward(n, d, heads, batch, causal):
    pairs = n * (n + 1) // 2 if causal else n * n
    forward = 4 * pairs * d * heads * batch
    return forward + 2 * forward


def multiplications_only(n, d, heads, batch, causal):
    return _flops(n, d, heads, batch, causal, each=1)


def half_of_square(n, d, heads, batch, causal):
    return _flops(n, d, heads, batch, causal, pairs=n * n // 2 if causal else n * n)


def half_of_square_float(n, d, heads, batch, causal):
    pairs = int(n * n * 0.5) if causal else n * n
    return sum([2 * pairs * d * heads * batch] * 7)


def own_pairs_left_out(n, d, heads, batch, causal):
    return _flops(n, d, heads, batch, causal, pairs=n * (n - 1) // 2 if causal else n * n)


def mask_ignored(n, d, heads, batch, causal):
    return _flops(n, d, heads, batch, False)


def always_causal(n, d, heads, batch, causal):
    return _flops(n, d, heads, batch, True)


def one_head(n, d, heads, batch, causal):
    return _flops(n, d, 1, batch, causal)


def one_sequence(n, d, heads, batch, causal):
    return _flops(n, d, heads, 1, causal)


def in_floats(n, d, heads, batch, causal):
    pairs = n * (n + 1) / 2 if causal else float(n * n)
    return 14 * d * pairs * heads * batch


# --- 7.5 triton_attention ------------------------------------------------------------------------

_KERNEL = """
import math
import torch
import triton
import triton.language as tl

def kernel(q_ptr, k_ptr, v_ptr, o_ptr, n_tokens, scale,
           WINDOW: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr):
    block, head = tl.program_id(0), tl.program_id(1)
    q_pos = block * BLOCK + tl.arange(0, BLOCK)
    d = tl.arange(0, D)
    q_at = (head * n_tokens + q_pos[:, None]) * D + d[None, :]
    q = tl.load(q_ptr + q_at, mask=q_pos[:, None] < n_tokens, other=0.0)
    peak = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    acc = tl.zeros([BLOCK, D], tl.float32)
    first = tl.maximum(block * BLOCK - WINDOW + 1, 0) // BLOCK
    for step in range(0, block - first + 1):
        k_pos = (block - step) * BLOCK + tl.arange(0, BLOCK)
        k_at = (head * n_tokens + k_pos[:, None]) * D + d[None, :]
        k = tl.load(k_ptr + k_at, mask=k_pos[:, None] < n_tokens, other=0.0)
        v = tl.load(v_ptr + k_at, mask=k_pos[:, None] < n_tokens, other=0.0)
        s = tl.dot(q, tl.trans(k)) * scale
        ago = q_pos[:, None] - k_pos[None, :]
        s = tl.where((ago >= 0) & (ago < WINDOW), s, float("-inf"))
        new_peak = tl.maximum(peak, tl.max(s, axis=1))
        base = tl.where(new_peak == float("-inf"), 0.0, new_peak)
        p = tl.exp(s - base[:, None])
        shrink = tl.exp(peak - base)
        total = total * shrink + tl.sum(p, axis=1)
        acc = acc * shrink[:, None] + tl.dot(p, v)
        peak = new_peak
    o = acc / total[:, None]
    tl.store(o_ptr + q_at, o, mask=q_pos[:, None] < n_tokens)

def triton_attention(q, k, v, window):
    heads, n_tokens, D = q.shape
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    o = torch.empty_like(q)
    triton.jit(kernel)[(triton.cdiv(n_tokens, 16), heads)](
        q, k, v, o, n_tokens, 1 / math.sqrt(D), WINDOW=window, D=D, BLOCK=16)
    return o
"""
_FORWARDS = {"(block - step) * BLOCK": "(first + step) * BLOCK"}
_UNGUARDED = {'base = tl.where(new_peak == float("-inf"), 0.0, new_peak)': "base = new_peak"}


def kernel_with(name: str, changes: dict[str, str]) -> Callable[..., Any]:
    """The right kernel with lines changed; made when it is called first."""
    source = _KERNEL
    for old, new in changes.items():
        if old not in source:
            raise ValueError(f"changes: the kernel has no {old!r}")
        source = source.replace(old, new)

    def triton_attention(q, k, v, window):
        return run_source(source, "triton_attention", f"<{name}>")(q, k, v, window)

    return triton_attention


MISCONCEPTIONS = [
    # 7.1
    Misconception("7.1", "old sums not rescaled", not_rescaled,
        "The maximum has grown, but what you had summed before is still measured from the old one. Old and new terms are then in different units. By what must the old ones be multiplied?",
        variants=[not_rescaled_loop]),
    Misconception("7.1", "acc not rescaled", acc_not_rescaled,
        "You rescale l but not acc. Both are sums of the same exp(score - m), so both change when m does.",
        variants=[acc_not_rescaled_torch]),
    Misconception("7.1", "l not rescaled", sum_not_rescaled,
        "You rescale acc but not l. Both are sums of the same exp(score - m), so both change when m does."),
    Misconception("7.1", "factor the wrong way round", factor_inverted,
        "Your factor grows when the maximum grows. exp(score - m) gets *smaller* if m gets larger."),
    Misconception("7.1", "maximum of the block only", block_maximum,
        "You measure from the largest score of this block. If an earlier block had a larger one, its exp(score - m) may overflow now. m is the largest score of *all* blocks so far."),
    Misconception("7.1", "NaN where nothing is visible", empty_row_nan,
        "A row that has seen nothing has m = -inf, and -inf - -inf is NaN. The task wants such a row to stay as it was: what finite number could you subtract instead?",
        variants=[empty_row_nan_loop]),
    Misconception("7.1", "normalised at every step", normalised_each_time,
        "You divide acc by l in every step. Next time it would be rescaled as a sum, which it no longer is. Divide once, when all blocks have been seen."),
    Misconception("7.1", "maximum not subtracted", maximum_not_subtracted,
        "You sum exp(score), with nothing subtracted. l and acc are sums of exp(score - m); without that, a score of 1000 overflows."),
    Misconception("7.1", "one maximum for all rows", one_maximum_for_all,
        "You use one maximum for all rows. Each query has its own softmax and so its own maximum; in a row with small scores everything may underflow to 0."),
    Misconception("7.1", "earlier blocks forgotten", old_block_forgotten,
        "You return the sums of this block alone. What m, l and acc held about earlier blocks is lost."),
    Misconception("7.1", "new block rescaled too", values_forgotten,
        "In acc you shrink the new block's part as well. It is measured from the new maximum already; only the old part has to change."),
    Misconception("7.1", "input overwritten", in_place,
        "The numbers are right, but you write them into the arrays that came in. Return new ones."),
    Misconception("7.1", "large number for -inf", finite_for_nothing,
        "For a row that has seen nothing you put a large negative number in place of -inf. Then blocked cells have exp(0) = 1, and the row counts keys that it may not see."),
    # 7.2
    Misconception("7.2", "remainder dropped", remainder_dropped,
        "You leave out the last row and column of tiles when block does not divide n. They are smaller, but their tokens are there.",
        variants=[remainder_dropped_loop]),
    Misconception("7.2", "diagonal always partial", diagonal_always_partial,
        "A tile on the diagonal is partial if it holds a visible and a blocked cell. Can it be so small that it holds no blocked one? Try block = 1, and n = 5 with block = 2.",
        variants=[diagonal_always_partial_loop]),
    Misconception("7.2", "last tile forgotten", last_tile_forgotten,
        "With block = 1 you are right. Look at the last tile on the diagonal when one token is left over, as with n = 5 and block = 2: which cells does it have?"),
    Misconception("7.2", "block = 1 forgotten", small_block_forgotten,
        "With block = 1 every tile is a single cell. Can a single cell be partial?"),
    Misconception("7.2", "diagonal counted as full", diagonal_full,
        "You count the tiles on the diagonal as full. Their upper right half is the future."),
    Misconception("7.2", "diagonal counted as empty", diagonal_empty,
        "You count the tiles on the diagonal as empty. A token sees itself, and those cells lie there."),
    Misconception("7.2", "full and empty swapped", full_and_empty_swapped,
        "Full and empty are swapped: which side of the diagonal is visible? (Rows are queries.)"),
    Misconception("7.2", "partial tiles counted twice", visible_counted_together,
        "Your full tiles include the partial ones. Each tile is of one kind."),
    Misconception("7.2", "half of all tiles", half_of_all,
        "Full and empty tiles are half of all tiles only if there were no diagonal. Do your three numbers add up to the number of tiles?"),
    Misconception("7.2", "cells instead of tiles", cells_counted,
        "You count cells. The exercise asks for tiles."),
    Misconception("7.2", "mask built", mask_built,
        "The counts are right, but you build the whole mask to get them, and that is what the tiles are there to avoid. For a tile, it is enough to compare its corners, or just its place."),
    # 7.3
    Misconception("7.3", "all scores at once", plain,
        "The scores of all pairs were in memory at one time, those of the future too. That is plain attention; the loops over tiles are the exercise.",
        variants=[plain_torch]),
    Misconception("7.3", "a whole row of tiles at once", row_strips,
        "You take blocks of queries, but compare each with all its keys at once, so the scores of a whole row of tiles are in memory. Go on with blocks of keys: then softmax has to be done in pieces (7.1)."),
    Misconception("7.3", "a whole row of tiles, future included", row_strips_loop,
        "You take blocks of queries, but compare each with *all* keys at once, the future included: too much memory and twice the work. Go on with blocks of keys, up to the last one that is visible; softmax then has to be done in pieces (7.1)."),
    Misconception("7.3", "old sums not rescaled", flash_not_rescaled,
        "When a later block has a larger maximum, what you summed before has to be rescaled. The first rows are right because they see one block only.",
        variants=[flash_not_rescaled_torch]),
    Misconception("7.3", "corner at the top left", corner_top_left,
        "With as many queries as keys you are right. If there are fewer, they are the *last* ones: the query in row 0 is at position Tk - Tq, and you let it see too little."),
    Misconception("7.3", "no division by sqrt(d)", no_scale,
        "The scores are not divided by the square root of d. Weights come out too sharp."),
    Misconception("7.3", "divided by d", scaled_by_d,
        "You divide the scores by d (or twice by its square root). Weights come out too even."),
    Misconception("7.3", "divided by sqrt(block)", scaled_by_block,
        "You divide by the square root of the tile's size. The result must not depend on how the work is cut; d is the number of entries of a key."),
    Misconception("7.3", "future tiles computed", future_tiles_computed,
        "You compute tiles that lie wholly in the future and throw them away. That costs twice the work, and NaN in a future value comes through, for 0 times NaN is NaN. Where may the inner loop stop?",
        variants=[future_tiles_computed_loop]),
    Misconception("7.3", "not causal", not_causal,
        "Every query sees every key: there is no mask at all."),
    Misconception("7.3", "causal between tiles only", causal_by_tiles,
        "You skip future tiles, but in the tiles on the diagonal every query sees every key, its future included. Those need the rule cell by cell.",
        variants=[causal_by_tiles_loop]),
    Misconception("7.3", "own key blocked", own_key_blocked,
        "A query does not see its own key: the first row has nothing to average."),
    Misconception("7.3", "next key visible", next_key_visible,
        "A query sees one key beyond itself: the token that it has to predict."),
    Misconception("7.3", "maximum not subtracted", maximum_not_used,
        "This works for small scores. With scores near 1000, exp overflows: subtract the running maximum."),
    Misconception("7.3", "not divided by the sum", not_divided,
        "The weighted sums are right up to a factor: at the end, each row has to be divided by the sum of its weights."),
    Misconception("7.3", "remainder dropped", remainder_left_out,
        "The last block is left out when it is smaller than the others. A slice that reaches beyond the end is simply shorter; its tokens count."),
    Misconception("7.3", "softmax tile by tile", softmax_by_tile,
        "You take a softmax in each tile and average the results. Tiles with large scores must weigh more than others: only *one* division at the very end, by the sum over all tiles, is right."),
    Misconception("7.3", "diagonal tiles left out", diagonal_tiles_left_out,
        "You use full tiles only. The partial ones on the diagonal hold the nearest keys, among them the query's own."),
    # 7.4
    Misconception("7.4", "forward pass only", forward_only,
        "That is the forward pass, as the library counts it. The exercise asks for a training step, with the backward pass.",
        variants=[forward_only_loop]),
    Misconception("7.4", "backward pass only", backward_only,
        "That is the backward pass. A training step needs the forward pass too."),
    Misconception("7.4", "scores made once", scores_made_once,
        "You count the backward pass as twice the forward pass. That is so if the weights were kept; Flash has not kept them. Which product is done again?",
        variants=[three_times_forward]),
    Misconception("7.4", "multiplications only", multiplications_only,
        "You count multiplications. Each is followed by an addition, and both count."),
    Misconception("7.4", "half of n squared", half_of_square,
        "For the causal count you take half of n squared. Count the visible pairs on paper for n = 3: are there 4 or 5, or another number?",
        variants=[half_of_square_float]),
    Misconception("7.4", "half of the whole count", lambda n, d, heads, batch, causal: _flops(n, d, heads, batch, False) // (2 if causal else 1),
        "For the causal count you halve the count without a mask. Count the visible pairs on paper for n = 3: are they half of nine?"),
    Misconception("7.4", "own pairs left out", own_pairs_left_out,
        "You count pairs of *different* tokens. A token attends to itself too."),
    Misconception("7.4", "mask ignored", mask_ignored,
        "Your count is the same with and without causal. Only visible pairs cost anything."),
    Misconception("7.4", "always causal", always_causal,
        "Your count is the same with and without causal. Without it, all pairs are visible."),
    Misconception("7.4", "heads left out", one_head,
        "Your count does not grow with the number of heads. Every head has queries and keys of its own."),
    Misconception("7.4", "batch left out", one_sequence,
        "Your count does not grow with the number of sequences."),
    Misconception("7.4", "floating numbers", in_floats,
        "Your formula is right, but it divides with /, which makes a floating number, and large counts lose their last digits. An integer was asked for: divide with //."),
    # 7.5
    Misconception("7.5", "window one too wide", kernel_with("one too wide", {"ago < WINDOW": "ago <= WINDOW"}),
        "Your window is one token too wide. It counts the query's own token: with window = 1, what does a query see?"),
    Misconception("7.5", "window one too narrow", kernel_with("one too narrow", {"ago < WINDOW": "ago < WINDOW - 1"}),
        "Your window is one token too narrow: the token itself counts, so window = 1 is the token alone, and yours is then empty."),
    Misconception("7.5", "window ignored", kernel_with("no window", {"(ago >= 0) & (ago < WINDOW)": "ago >= 0", "tl.maximum(block * BLOCK - WINDOW + 1, 0) // BLOCK": "block * 0"}),
        "That is plain causal attention: your queries see everything before them. The window ends somewhere."),
    Misconception("7.5", "window ignored within a block", kernel_with("no rule", {"(ago >= 0) & (ago < WINDOW)": "ago >= 0"}),
        "You leave out blocks before the window, but within the blocks that you visit every past key is visible. The rule has to look at each cell."),
    Misconception("7.5", "future visible", kernel_with("no causal rule", {"(ago >= 0) & (ago < WINDOW)": "ago < WINDOW"}),
        "Within its own block a query sees its future. The window has two ends: the token itself is the last that it sees."),
    Misconception("7.5", "NaN from a block with nothing visible", kernel_with("nan", _FORWARDS | _UNGUARDED),
        "Some rows are NaN. You begin at the oldest block, where the last queries may see nothing; then the maximum is still -inf, and -inf - -inf is NaN. Begin where every row sees something, or guard."),
    Misconception("7.5", "old sums not rescaled", kernel_with("not rescaled", {"total * shrink": "total", "acc * shrink[:, None]": "acc"}),
        "The maximum has changed from block to block, and your sums have not been rescaled to it. (Where the window lies in one block, you are right.)"),
    Misconception("7.5", "old sums not rescaled, oldest first", kernel_with("not rescaled forwards", _FORWARDS | {"total * shrink": "total", "acc * shrink[:, None]": "acc"}),
        "The maximum has changed from block to block, and your sums have not been rescaled to it. (Where the window lies in one block, you are right.)"),
    Misconception("7.5", "own key blocked", kernel_with("own key", {"(ago >= 0) & (ago < WINDOW)": "(ago > 0) & (ago <= WINDOW)"}),
        "Your queries do not see their own token, and the first query of a text sees nothing at all. The window counts the token itself."),
    Misconception("7.5", "acc not rescaled", kernel_with("acc not rescaled", {"acc * shrink[:, None]": "acc"}),
        "You rescale the total but not acc. Both are sums of exp(score - peak)."),
    Misconception("7.5", "scores not scaled", kernel_with("unscaled", {" * scale": ""}),
        "The scores are not multiplied by scale."),
    Misconception("7.5", "all blocks visited", kernel_with("all visited", {"tl.maximum(block * BLOCK - WINDOW + 1, 0) // BLOCK": "block * 0"}),
        "Without NaN your output is right, but you visit blocks that lie wholly before the window and throw them away. 0 times NaN is NaN, and with a long text most of the work would be for nothing. Which is the first block that the program's first query sees?"),
    Misconception("7.5", "oldest block left out", kernel_with("too late", {"block - first + 1": "tl.maximum(block - first, 1)"}),
        "You miss the oldest block that the window reaches into. Which key is the first that the *first* query of the program sees, and in which block does it lie?"),
    Misconception("7.5", "own block only", kernel_with("own block", {"block - first + 1": "1"}),
        "You look at the block of the queries only. A window reaches into earlier blocks."),
    Misconception("7.5", "own block left out", kernel_with("not its own", {"range(0, block": "range(1, block"}),
        "You leave out the block in which the queries themselves stand. They see themselves, and their neighbours."),
    Misconception("7.5", "peak not updated", kernel_with("peak", {"        peak = new_peak\n": ""}),
        "You compute a new maximum in each step but do not keep it: the next step measures from the wrong one."),
    Misconception("7.5", "keys of the first head for all", kernel_with("one head", {"k_at = (head * n_tokens + k_pos": "k_at = (k_pos"}),
        "All heads read the keys and values of the first head. Where do those of head h begin?"),
]  # fmt: skip
