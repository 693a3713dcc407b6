"""Right answers to the exercises of chapter 3 in several styles; all get full marks (teachers)."""

import math

import numpy as np
import torch
import torch.nn.functional as F

# --- 3.3 ------------------------------------------------------------------------------------------


def softmax_numpy(scores, mask):
    """Vectorised, never 0/0."""
    visible = np.broadcast_to(mask, scores.shape)
    some = visible.any(axis=-1, keepdims=True)
    masked = np.where(visible, scores, -np.inf)
    peak = np.where(some, masked.max(axis=-1, keepdims=True), 0)
    powers = np.where(visible, np.exp(masked - peak), 0)
    return powers / np.where(some, powers.sum(axis=-1, keepdims=True), 1)


def softmax_loops(scores, mask):
    """Row by row, with plain lists; gives float64 whatever came in."""
    mask = np.broadcast_to(mask, scores.shape)
    weights = np.zeros(scores.shape)
    for row in np.ndindex(scores.shape[:-1]):
        seen = [j for j, may in enumerate(mask[row]) if may]
        if not seen:
            continue
        shown = [float(scores[(*row, j)]) for j in seen]
        if any(math.isnan(s) for s in shown):
            weights[row] = math.nan
            continue
        powers = [math.exp(s - max(shown)) for s in shown]
        for j, p in zip(seen, powers, strict=True):
            weights[(*row, j)] = p / sum(powers)
    return weights


def softmax_lowest_number(scores, mask):
    """A finite fill, which is legal: the lowest number of the dtype."""
    s, blocked = torch.from_numpy(scores.copy()), torch.from_numpy(~mask)
    p = torch.softmax(s.masked_fill(blocked, torch.finfo(s.dtype).min), dim=-1)
    return torch.where(blocked, torch.zeros((), dtype=s.dtype), p)


def softmax_small_epsilon(scores, mask):
    """The finite fill in NumPy, and an epsilon in the denominator in place of a case."""
    filled = np.where(mask, scores, np.finfo(scores.dtype).min)
    with np.errstate(over="ignore"):
        powers = np.exp(filled - filled.max(axis=-1, keepdims=True)) * mask
    return powers / (powers.sum(axis=-1, keepdims=True) + 1e-12)


def softmax_logsumexp(scores, mask):
    """The built-in log-sum-exp, in float64."""
    s = torch.tensor(scores, dtype=torch.float64).masked_fill(~torch.tensor(mask), -torch.inf)
    p = (s - torch.logsumexp(s, dim=-1, keepdim=True)).exp()
    return p.where(torch.tensor(mask), torch.tensor(0.0, dtype=torch.float64))


# --- 3.5 ------------------------------------------------------------------------------------------


def attention_loops(q, k, v):
    """Three loops and a running list, no mask anywhere: the future is never touched."""
    lead = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    lead_weights = np.broadcast_shapes(q.shape[:-2], k.shape[:-2])
    length = q.shape[-2]
    weights = np.zeros((*lead_weights, length, length))
    q, k = (np.broadcast_to(x, lead_weights + x.shape[-2:]) for x in (q, k))
    for b in np.ndindex(lead_weights):
        for i in range(length):
            scores = [float(q[b][i] @ k[b][j]) / math.sqrt(q.shape[-1]) for j in range(i + 1)]
            powers = [math.exp(s - max(scores)) for s in scores]
            weights[b][i, : i + 1] = [p / sum(powers) for p in powers]
    output = np.zeros((*lead, length, v.shape[-1]))
    for b in np.ndindex(lead):
        w = np.broadcast_to(weights, (*lead, length, length))[b]
        output[b] = w @ np.broadcast_to(v, lead + v.shape[-2:])[b]
    return output, weights


def attention_torch(q, k, v):
    q, k, v = (torch.tensor(x) for x in (q, k, v))
    scores = torch.einsum("...id,...jd->...ij", q, k) * q.shape[-1] ** -0.5
    blocked = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(diagonal=1)
    weights = F.softmax(scores.masked_fill(blocked, float("-inf")), dim=-1)
    return [weights @ v, weights]


def attention_bias(q, k, v):
    """An additive bias, in float64, with the scale on the queries."""
    q = q.astype(np.float64) / np.sqrt(q.shape[-1])
    n = q.shape[-2]
    bias = np.triu(np.full((n, n), -np.inf), k=1)
    scores = q @ np.swapaxes(k, -1, -2) + bias
    weights = np.exp(scores - np.max(scores, axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return np.einsum("...ij,...jd->...id", weights, v), weights


def attention_built_in(q, k, v):
    """PyTorch's fused function; the weights are what it makes of unit vectors."""
    q, k, v = (torch.tensor(x) for x in (q, k, v))
    unit = torch.eye(q.shape[-2], dtype=q.dtype)
    lead = torch.broadcast_shapes(q.shape[:-2], k.shape[:-2])
    q, k = (x.expand(*lead, *x.shape[-2:]) for x in (q, k))
    weights = F.scaled_dot_product_attention(q, k, unit.expand(*lead, -1, -1), is_causal=True)
    return weights @ v, weights


def attention_finite_fill(q, k, v):
    """A finite fill is legal here: every row sees at least itself."""
    scores = q @ np.matrix_transpose(k) / math.sqrt(q.shape[-1])
    scores = np.where(np.tril(np.ones(scores.shape)) == 1, scores, np.finfo(q.dtype).min)
    with np.errstate(over="ignore"):
        powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights = powers / powers.sum(axis=-1, keepdims=True)
    return weights @ v, weights


ACCEPTED: dict[str, list[object]] = {
    "3.1": [
        [0.2760, 0.1674, 0.1015, 0.4551, 0.0],
        np.exp(np.array([1, 0.5, 0, 1.5, -np.inf])) / np.exp([1, 0.5, 0, 1.5]).sum(),
        torch.softmax(torch.tensor([1, 0.5, 0, 1.5, -torch.inf]), dim=0),
        (0.276, 0.1674, 0.1015, 0.4551, 0),
    ],
    "3.2": [
        [0.6, 0.3, 0, 0.1, 0],
        np.array([6, 3, 0, 1, 0]) / 10,
        torch.tensor([0.6, 0.3, 0.0, 0.1, 0.0]),
    ],
    "3.3": [
        softmax_numpy,
        softmax_loops,
        softmax_lowest_number,
        softmax_small_epsilon,
        softmax_logsumexp,
    ],
    "3.4": [
        [-42.0, -43.0, -44.0, 60.0],
        np.array([-43.5, -44.0, -44.0, 60.0], dtype=np.float32),
        torch.tensor([-52.0, -53, -55, 51]),
        (-60, -45, -44, 59.5),
        [-43, -44, -60, 60],
    ],
    "3.5": [
        attention_loops,
        attention_torch,
        attention_bias,
        attention_built_in,
        attention_finite_fill,
    ],
}
