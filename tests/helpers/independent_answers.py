"""Answers written from the task texts alone, before the bank of misconceptions was opened.

They measure the checks with something that the checks were not made from (`test_independent.py`).
Each answer is a student's: loops, torch, other names, shortcuts. `THOUGHTS` says what is wrong.
"""
# ruff: noqa: E501, E741 (students name things as papers do)

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Independent:
    """One answer.

    Attributes:
        exercise: number.
        thought: what the student thought, in a few words; "" for a right answer.
        answer: function, class or value.
    """

    exercise: str
    thought: str
    answer: Any


ANSWERS: list[Independent] = []


def right(exercise: str) -> Callable[[Any], Any]:
    """Register a right answer."""
    return wrong(exercise, "")


def wrong(exercise: str, thought: str) -> Callable[[Any], Any]:
    """Register a wrong answer with the thought behind it."""

    def keep(answer: Any) -> Any:
        ANSWERS.append(Independent(exercise, thought, answer))
        return answer

    return keep


# --- chapter 1 -----------------------------------------------------------------------------------


@right("1.1")
def _(logits, tokens):
    return float(
        sum(
            torch.log_softmax(torch.tensor(row, dtype=torch.float64), 0)[int(word)]
            for row, word in zip(logits[:-1], tokens[1:], strict=True)
        )
    )


@wrong("1.1", "row t is about word t")
def _(logits, tokens):
    total = 0.0
    for t in range(1, len(tokens)):
        z = logits[t] - logits[t].max()
        total += z[tokens[t]] - math.log(np.exp(z).sum())
    return float(total)


@wrong("1.1", "exp overflows")
def _(logits, tokens):
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return float(sum(np.log(p[i, tokens[i + 1]]) for i in range(len(tokens) - 1)))


@wrong("1.1", "mean instead of sum")
def _(logits, tokens):
    lp = torch.log_softmax(torch.from_numpy(logits[:-1]), -1).numpy()
    if len(tokens) == 1:
        return 0.0
    return float(lp[np.arange(len(tokens) - 1), tokens[1:]].mean())


@wrong("1.1", "probability instead of its logarithm")
def _(logits, tokens):
    lp = torch.log_softmax(torch.from_numpy(logits[:-1]), -1).numpy()
    return float(np.exp(lp[np.arange(len(tokens) - 1), tokens[1:]].sum()))


@right("1.2")
def _(tokens):
    n = tokens.shape[-1]
    return tokens[..., : n - 1], tokens[..., 1:n]


@wrong("1.2", "cuts the batch axis")
def _(tokens):
    return tokens[:-1], tokens[1:]


@wrong("1.2", "swapped")
def _(tokens):
    return tokens[..., 1:], tokens[..., :-1]


@wrong("1.2", "rolls instead of cutting")
def _(t):
    return t, (torch.roll(t, -1, -1) if isinstance(t, torch.Tensor) else np.roll(t, -1, -1))


@right("1.2")
def _(tokens):
    a = np.array(tokens)
    return a[..., :-1], a[..., 1:]


@wrong("1.2", "no shift, the loss will do it")
def _(tokens):
    return tokens[..., :-1], tokens[..., :-1]


@right("1.3")
def _(fn, x):
    T, C = x.shape
    base = np.array(fn(x.copy()))
    generator = np.random.default_rng(5)
    seen = np.zeros((T, T), dtype=bool)
    for j in range(T):
        for _try in range(60):
            probe = x.copy()
            probe[j] = generator.standard_normal(C)
            seen[:, j] |= (np.abs(fn(probe) - base) > 1e-9).any(axis=1)
    return seen


@wrong("1.3", "one try")
def _(fn, x):
    y = fn(x)
    out = np.zeros((len(x), len(x)), bool)
    for j in range(len(x)):
        z = x.copy()
        z[j] = np.random.randn(x.shape[1])
        out[:, j] = (abs(fn(z) - y) > 1e-9).any(1)
    return out


@wrong("1.3", "transposed")
def _(fn, x):
    y = fn(x)
    out = np.zeros((len(x), len(x)), bool)
    for j in range(len(x)):
        for _k in range(60):
            z = x.copy()
            z[j] = np.random.randn(x.shape[1])
            out[j] |= (abs(fn(z) - y) > 1e-9).any(1)
    return out


@wrong("1.3", "small steps (a derivative)")
def _(fn, x):
    y = fn(x)
    out = np.zeros((len(x), len(x)), bool)
    for j in range(len(x)):
        for c in range(x.shape[1]):
            z = x.copy()
            z[j, c] += 1e-4
            out[:, j] |= (abs(fn(z) - y) > 1e-9).any(1)
    return out


@wrong("1.3", "assumes a causal function")
def _(fn, x):
    return np.tril(np.ones((len(x), len(x)), bool))


@wrong("1.3", "compares with !=, so rounding counts")
def _(fn, x):
    y = fn(x)
    out = np.zeros((len(x), len(x)), bool)
    for j in range(len(x)):
        for _k in range(60):
            z = x.copy()
            z[j] = np.random.randn(x.shape[1])
            out[:, j] |= (fn(z) != y).any(1)
    return out


@wrong("1.3", "np.allclose, whose tolerance is 1e-8 + 1e-5 relative")
def _(fn, x):
    y = fn(x)
    T = len(x)
    out = np.zeros((T, T), bool)
    for j in range(T):
        for _k in range(60):
            z = x.copy()
            z[j] = np.random.randn(x.shape[1])
            w = fn(z)
            for i in range(T):
                if not np.allclose(w[i], y[i]):
                    out[i, j] = True
    return out


@right("1.4")
def _(transition, start, length):
    def h(p):
        p = p[p > 0]
        return float(-(p * np.log(p)).sum())

    rows = np.array([h(r) for r in transition])
    total, p = h(start), start
    for _ in range(length - 1):
        total += float(p @ rows)
        p = p @ transition
    return total / length


@wrong("1.4", "the first word is not counted")
def _(transition, start, length):
    rows = [-sum(x * math.log(x) for x in r if x > 0) for r in transition]
    p, total = start, 0.0
    for _ in range(length - 1):
        total += float(p @ np.array(rows))
        p = p @ transition
    return total / max(1, length - 1)


@wrong("1.4", "entropy of the word's own distribution, memory ignored")
def _(transition, start, length):
    p, total = start.copy(), 0.0
    for _ in range(length):
        q = p[p > 0]
        total -= float((q * np.log(q)).sum())
        p = p @ transition
    return total / length


@wrong("1.4", "bits")
def _(transition, start, length):
    def h(p):
        p = p[p > 0]
        return float(-(p * np.log2(p)).sum())

    rows = np.array([h(r) for r in transition])
    total, p = h(start), start
    for _ in range(length - 1):
        total += float(p @ rows)
        p = p @ transition
    return total / length


@wrong("1.4", "0 log 0 is NaN")
def _(transition, start, length):
    rows = -(transition * np.log(transition)).sum(1)
    total, p = -(start * np.log(start)).sum(), start
    for _ in range(length - 1):
        total = total + p @ rows
        p = p @ transition
    return float(total / length)


@wrong("1.4", "transition.T @ ... the other way round")
def _(transition, start, length):
    def h(p):
        p = p[p > 0]
        return float(-(p * np.log(p)).sum())

    rows = np.array([h(r) for r in transition])
    total, p = h(start), start
    for _ in range(length - 1):
        total += float(p @ rows)
        p = transition @ p
    return total / length


# --- chapter 2 -----------------------------------------------------------------------------------

right("2.1")([[1 if j <= i else 0 for j in range(5)] for i in range(5)])
wrong("2.1", "transposed")(np.array([[int(j >= i) for j in range(5)] for i in range(5)]))
wrong("2.1", "diagonal blocked")(torch.tril(torch.ones(5, 5), -1).int())
wrong("2.1", "four tokens")(np.tril(np.ones((4, 4), int)))
wrong("2.1", "ones and zeros exchanged")(1 - np.tril(np.ones((5, 5), int)))
wrong("2.1", "one typo")(
    [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 0, 1, 0], [1, 1, 1, 1, 1]]
)


@right("2.2")
def _(n):
    out = torch.zeros(n, n, dtype=torch.bool)
    for row in range(n):
        out[row, : row + 1] = True
    return out


@wrong("2.2", "transposed")
def _(n):
    return np.array([[i <= j for j in range(n)] for i in range(n)], dtype=bool).reshape(n, n)


@wrong("2.2", "floats")
def _(n):
    return torch.tril(torch.ones((n, n)))


@wrong("2.2", "hard-coded to 4 (and smaller ones cut out of it)")
def _(n):
    big = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]], bool)
    return big[:n, :n]


@wrong("2.2", "hard-coded up to 8")
def _(n):
    return np.tril(np.ones((8, 8), bool))[:n, :n]


@wrong("2.2", "True = blocked")
def _(seq):
    idx = torch.arange(seq)
    return idx.unsqueeze(0) > idx.unsqueeze(1)


@wrong("2.2", "diagonal blocked")
def _(n):
    m = np.zeros((n, n), bool)
    for i in range(n):
        for j in range(i):
            m[i, j] = True
    return m


@right("2.3")
def _(q_pos, k_pos):
    out = np.empty((len(q_pos), len(k_pos)), dtype=np.bool_)
    for a, q in enumerate(q_pos):
        for b, k in enumerate(k_pos):
            out[a, b] = not k > q
    return out


@wrong("2.3", "indices instead of positions")
def _(q_pos, k_pos):
    return np.tril(np.ones((len(q_pos), len(k_pos)), bool))


@wrong("2.3", "bottom right triangle")
def _(q_pos, k_pos):
    a, b = len(q_pos), len(k_pos)
    return np.tril(np.ones((a, b), bool), b - a)


@wrong("2.3", "strictly earlier")
def _(q_pos, k_pos):
    return torch.tensor(q_pos)[:, None] > torch.tensor(k_pos)[None]


@wrong("2.3", "axes exchanged")
def _(q_pos, k_pos):
    return q_pos[None, :] >= k_pos[:, None]


@right("2.4")
def _(mask, dtype):
    if isinstance(mask, torch.Tensor):
        return torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, -math.inf)
    out = np.zeros_like(mask, dtype=dtype)
    out[~mask] = -np.inf
    return out


@wrong("2.4", "multiplies by infinity")
def _(mask, dtype):
    if isinstance(mask, torch.Tensor):
        return (~mask).to(dtype) * float("-inf")
    return ((~mask) * -np.inf).astype(dtype)


@wrong("2.4", "-1e9")
def _(mask, dtype):
    if isinstance(mask, torch.Tensor):
        return torch.where(mask, 0.0, -1e9).to(dtype)
    return np.where(mask, 0, -1e9).astype(dtype)


@wrong("2.4", "blocks the visible")
def _(mask, dtype):
    if isinstance(mask, torch.Tensor):
        return torch.zeros(mask.shape, dtype=dtype).masked_fill(mask, -math.inf)
    return np.where(mask, -np.inf, 0).astype(dtype)


@wrong("2.4", "dtype forgotten")
def _(mask, dtype):
    if isinstance(mask, torch.Tensor):
        return torch.where(mask, 0.0, -torch.inf)
    return np.where(mask, 0.0, -np.inf)


@wrong("2.4", "NumPy always")
def _(mask, dtype):
    return np.where(np.asarray(mask), 0.0, -np.inf).astype(
        dtype if not isinstance(dtype, torch.dtype) else np.float32
    )


@wrong("2.4", "lowest finite number")
def _(mask, dtype):
    if isinstance(mask, torch.Tensor):
        return torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
    return np.where(mask, 0, np.finfo(dtype).min).astype(dtype)


@right("2.5")
def _(mask, row):
    m = torch.tensor(np.array(mask))
    m.select(-2, row).fill_(True)
    return m


@wrong("2.5", "writes into the mask")
def _(mask, row):
    mask[..., row, :] = True
    return mask


@wrong("2.5", "first axis")
def _(mask, row):
    m = mask.copy()
    m[row] = True
    return m


@wrong("2.5", "a column")
def _(mask, row):
    m = mask.copy()
    m[..., row] = True
    return m


@wrong("2.5", "rebuilds a causal mask")
def _(mask, row):
    q, k = mask.shape[-2:]
    m = np.tril(np.ones((q, k), bool))
    m[row] = True
    return np.broadcast_to(m, mask.shape).copy()


_s = np.array([0.5, 1, 1, 0.5, 0.75])
right("2.6")([round(float(v), 3) for v in np.exp(_s) / np.exp(_s).sum()])
wrong("2.6", "the causal weights again")([0.2327, 0.3837, 0.3837, 0, 0])
wrong("2.6", "scaled again")(torch.softmax(torch.tensor(_s / 2), 0))
wrong("2.6", "not normalised")(np.exp(_s))
wrong("2.6", "scores divided by their sum")(_s / _s.sum())
wrong("2.6", "new ones appended to the old")([0.2327, 0.3837, 0.3837, 0.2327, 0.2988])

# --- chapter 3 -----------------------------------------------------------------------------------

_k = np.array([[0, 1, 0, 1], [1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 0.5, 0.5]])
_dots = _k @ np.array([0, 0, 1, 2])


def _soft(s):
    e = np.exp(s - np.max(s))
    return e / e.sum()


right("3.1")(torch.softmax(torch.tensor([1.0, 0.5, 0.0, 1.5, -math.inf]), 0))
wrong("3.1", "no square root")([*_soft(_dots[:4]), 0])
wrong("3.1", "no mask")(_soft(_dots / 2))
wrong("3.1", "divided by d")([*_soft(_dots[:4] / 4), 0])
wrong("3.1", "the chapter's query")([0.2350, 0.2350, 0.1425, 0.3875, 0])
wrong("3.1", "itself excluded")([*_soft(_dots[:3] / 2), 0, 0])
wrong("3.1", "mask after softmax")([*_soft(_dots / 2)[:4], 0])

right("3.2")([0.6, 0.3, 0, 0.1, 0])
wrong("3.2", "no mask")(np.array([6, 3, 20, 1, 10]) / 40)
wrong("3.2", "mask after softmax")([6 / 40, 3 / 40, 0, 1 / 40, 0])
wrong("3.2", "causal mask of row 4")([0.15, 0.075, 0.5, 0.025, 0.25])
wrong("3.2", "the score 1000 counts 0")([6 / 9, 3 / 9, 0, 0, 0])
wrong("3.2", "powers not taken")(
    [(1000 + math.log(6)) / (3000 + math.log(18)), (1000 + math.log(3)) / (3000 + math.log(18)),
     0, 1000 / (3000 + math.log(18)), 0]
)  # fmt: skip


@right("3.3")
def _(scores, mask):
    mask = np.broadcast_to(mask, scores.shape)
    flat, seen = scores.reshape(-1, scores.shape[-1]), mask.reshape(-1, scores.shape[-1])
    out = np.zeros(flat.shape)
    for r in range(len(flat)):
        here = seen[r]
        if here.any():
            z = flat[r, here].astype(float)
            e = np.exp(z - z.max())
            out[r, here] = e / e.sum()
    return out.reshape(scores.shape)


@wrong("3.3", "nan_to_num hides NaN")
def _(scores, mask):
    s = torch.tensor(scores).masked_fill(
        ~torch.tensor(np.broadcast_to(mask, scores.shape)), -math.inf
    )
    return torch.softmax(s, -1).nan_to_num(0.0)


@wrong("3.3", "-1e9")
def _(scores, mask):
    s = np.where(mask, scores, -1e9)
    e = np.exp(s - s.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@wrong("3.3", "empty rows are NaN")
def _(scores, mask):
    s = np.where(mask, scores, -np.inf)
    e = np.exp(s - s.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@wrong("3.3", "mask after softmax, renormalised")
def _(scores, mask):
    e = np.exp(scores - scores.max(-1, keepdims=True)) * mask
    s = e.sum(-1, keepdims=True)
    return e / np.where(s == 0, 1, s)


@wrong("3.3", "empty rows are uniform (finite fill, no zeroing)")
def _(scores, mask):
    s = torch.tensor(scores)
    m = torch.tensor(np.broadcast_to(mask, scores.shape))
    return torch.softmax(s.masked_fill(~m, torch.finfo(s.dtype).min), -1)


@wrong("3.3", "exp of blocked zeroed, NaN times 0")
def _(scores, mask):
    m = np.broadcast_to(mask, scores.shape)
    top = np.where(m, scores, -np.inf).max(-1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0)
    e = np.exp(scores - top) * m
    s = e.sum(-1, keepdims=True)
    return e / np.where(s == 0, 1, s)


@wrong("3.3", "a sum plus epsilon")
def _(scores, mask):
    m = np.broadcast_to(mask, scores.shape)
    top = np.where(m, scores, -np.inf).max(-1, keepdims=True)
    top = np.where(np.isneginf(top), 0, top)
    e = np.where(m, np.exp(np.where(m, scores, 0) - top), 0)
    return e / (e.sum(-1, keepdims=True) + 1e-3)


right("3.4")(np.array([-42.9, -43.94, -43.94, 60.0]))
wrong("3.4", "NaN")([-60.0, -60, -60, 60])
wrong("3.4", "nothing lost")([2.0, 1, 4, 3])
wrong("3.4", "equal scores")([-43.0, -43, -43, 60])
wrong("3.4", "out of range")([0.1, 0.0, -0.3, 103.2])
wrong("3.4", "the visible score is the large one")([60, -43, -44, -43])


@right("3.5")
def _(q, k, v):
    q, k, v = (torch.as_tensor(a).double() for a in (q, k, v))
    T = q.shape[-2]
    s = torch.einsum("...id,...jd->...ij", q, k) / q.shape[-1] ** 0.5
    s = s + torch.full((T, T), -math.inf, dtype=s.dtype).triu(1)
    w = s.softmax(-1)
    return w @ v, w


@wrong("3.5", "no scale")
def _(q, k, v):
    s = q @ np.swapaxes(k, -1, -2)
    T = s.shape[-1]
    s = np.where(np.tri(T, dtype=bool), s, -np.inf)
    w = np.exp(s - s.max(-1, keepdims=True))
    w = w / w.sum(-1, keepdims=True)
    return w @ v, w


@wrong("3.5", "softmax over the queries")
def _(q, k, v):
    q, k, v = map(torch.tensor, (q, k, v))
    s = q @ k.mT / math.sqrt(q.shape[-1])
    s = s.masked_fill(~torch.ones(s.shape[-2:], dtype=torch.bool).tril(), -math.inf)
    w = F.softmax(s, dim=-2)
    return w @ v, w


@wrong("3.5", "results swapped")
def _(q, k, v):
    q, k, v = map(torch.tensor, (q, k, v))
    s = q @ k.mT / math.sqrt(q.shape[-1])
    w = s.masked_fill(~torch.ones(s.shape[-2:], dtype=torch.bool).tril(), -math.inf).softmax(-1)
    return w, w @ v


@wrong("3.5", "scaled by d_v")
def _(q, k, v):
    s = np.einsum("...id,...jd->...ij", q, k) / np.sqrt(v.shape[-1])
    s[..., np.triu_indices(s.shape[-1], 1)[0], np.triu_indices(s.shape[-1], 1)[1]] = -np.inf
    w = np.exp(s - s.max(axis=-1, keepdims=True))
    w /= w.sum(axis=-1, keepdims=True)
    return w @ v, w


@wrong("3.5", "k.T for two axes only")
def _(q, k, v):
    s = q @ k.T / math.sqrt(k.shape[-1])
    s = np.where(np.tri(len(q), dtype=bool), s, -np.inf)
    w = np.exp(s - s.max(-1, keepdims=True))
    w = w / w.sum(-1, keepdims=True)
    return w @ v, w


@wrong("3.5", "0 as a fill")
def _(q, k, v):
    s = np.tril(q @ np.swapaxes(k, -1, -2) / math.sqrt(k.shape[-1]))
    w = np.exp(s - s.max(-1, keepdims=True))
    w = w / w.sum(-1, keepdims=True)
    return w @ v, w


@wrong("3.5", "mask after softmax")
def _(Q, K, V):
    A = torch.softmax(torch.tensor(Q @ np.swapaxes(K, -1, -2) / math.sqrt(K.shape[-1])), -1).numpy()
    A = A * np.tri(A.shape[-1])
    return A @ V, A


@wrong("3.5", "exp without the maximum")
def _(q, k, v):
    s = q @ np.swapaxes(k, -1, -2) / math.sqrt(k.shape[-1])
    e = np.exp(s) * np.tri(s.shape[-1])
    w = e / e.sum(-1, keepdims=True)
    return w @ v, w


# --- chapter 4 -----------------------------------------------------------------------------------


def _heads(x, w_qkv, w_out, n_heads, *, tall=False, scale=None, causal=True, merge=True):
    x, w_qkv, w_out = (torch.as_tensor(a).double() for a in (x, w_qkv, w_out))
    B, T, C = x.shape
    d = C // n_heads
    q, k, v = torch.tensor_split(x @ w_qkv, 3, dim=-1)

    def cut(a):
        return (
            a.reshape(B, n_heads, T, d) if tall else a.unflatten(-1, (n_heads, d)).transpose(1, 2)
        )

    q, k, v = cut(q), cut(k), cut(v)
    y = F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale)
    y = y.transpose(1, 2).flatten(-2) if merge else y.reshape(B, T, C)
    return y @ w_out


@right("4.1")
def _(x, w_qkv, w_out, n_heads):
    B, T, C = x.shape
    d = C // n_heads
    out = np.zeros((B, T, C))
    for b in range(B):
        for h in range(n_heads):
            cols = slice(h * d, (h + 1) * d)
            q, k, v = (x[b] @ w_qkv[:, i * C : (i + 1) * C][:, cols] for i in range(3))
            for t in range(T):
                s = k[: t + 1] @ q[t] / np.sqrt(d)
                w = np.exp(s - s.max())
                out[b, t, cols] = w @ v[: t + 1] / w.sum()
    return out @ w_out


@right("4.1")
def _(x, w_qkv, w_out, n_heads):
    return _heads(x, w_qkv, w_out, n_heads)


@wrong("4.1", "heads by reshape without moving an axis")
def _(x, w_qkv, w_out, n_heads):
    return _heads(x, w_qkv, w_out, n_heads, tall=True)


@wrong("4.1", "merged without moving the axis back")
def _(x, w_qkv, w_out, n_heads):
    return _heads(x, w_qkv, w_out, n_heads, merge=False)


@wrong("4.1", "scaled by the whole width")
def _(x, w_qkv, w_out, n_heads):
    return _heads(x, w_qkv, w_out, n_heads, scale=x.shape[-1] ** -0.5)


@wrong("4.1", "no mask")
def _(x, w_qkv, w_out, n_heads):
    return _heads(x, w_qkv, w_out, n_heads, causal=False)


@wrong("4.1", "w_out forgotten")
def _(x, w_qkv, w_out, n_heads):
    return _heads(x, w_qkv, np.eye(x.shape[-1]), n_heads)


@wrong("4.1", "w_out transposed, as nn.Linear holds it")
def _(x, w_qkv, w_out, n_heads):
    return _heads(x, w_qkv, w_out.T, n_heads)


@wrong("4.1", "one head only")
def _(x, w_qkv, w_out, n_heads):
    return _heads(x, w_qkv, w_out, 1)


@wrong("4.1", "q, k, v in turns within each head")
def _(x, w_qkv, w_out, n_heads):
    C = x.shape[-1]
    w = w_qkv.reshape(C, n_heads, 3, C // n_heads).swapaxes(1, 2).reshape(C, 3 * C)
    return _heads(x, w, w_out, n_heads)


@right("4.2")
def _(lengths, total, side):
    out = torch.zeros(len(lengths), 1, total, total, dtype=torch.bool)
    for b, n in enumerate(lengths):
        first = total - int(n) if side == "left" else 0
        for i in range(total):
            out[b, 0, i, i] = True
            if first <= i < first + int(n):
                out[b, 0, i, first : i + 1] = True
    return out


@wrong("4.2", "padded rows see real tokens")
def _(lengths, total, side):
    t = np.arange(total)
    n = np.asarray(lengths)[:, None]
    real = t >= total - n if side == "left" else t < n
    m = np.tril(np.ones((total, total), bool)) & real[:, None, None, :]
    return m | np.eye(total, dtype=bool)


@wrong("4.2", "padded rows empty")
def _(lengths, total, side):
    t = np.arange(total)
    n = np.asarray(lengths)[:, None]
    real = t >= total - n if side == "left" else t < n
    return np.tri(total, dtype=bool) & real[:, None, None, :] & real[:, None, :, None]


@wrong("4.2", "sides confused")
def _(lengths, total, side):
    t = np.arange(total)
    n = np.asarray(lengths)[:, None]
    real = t >= total - n if side == "right" else t < n
    m = np.tri(total, dtype=bool) & real[:, None, None, :] & real[:, None, :, None]
    return m | np.eye(total, dtype=bool)


@wrong("4.2", "padding on queries only")
def _(lengths, total, side):
    t = torch.arange(total)
    n = torch.tensor(lengths)[:, None]
    real = t >= total - n if side == "left" else t < n
    m = torch.tril(torch.ones(total, total, dtype=torch.bool)) & real[:, None, :, None]
    return m | torch.eye(total, dtype=torch.bool)


@wrong("4.2", "off by one in the length")
def _(lengths, total, side):
    t = np.arange(total)
    n = np.asarray(lengths)[:, None]
    real = t > total - n if side == "left" else t < n
    m = np.tri(total, dtype=bool) & real[:, None, None, :] & real[:, None, :, None]
    return m | np.eye(total, dtype=bool)


@wrong("4.2", "three axes")
def _(lengths, total, side):
    t = np.arange(total)
    n = np.asarray(lengths)[:, None]
    real = t >= total - n if side == "left" else t < n
    m = np.tri(total, dtype=bool) & real[:, None, :] & real[:, :, None]
    return m | np.eye(total, dtype=bool)


@right("4.3")
def _(ids):
    n = len(ids)
    return torch.tensor(
        [[bool(j <= i and ids[i] == ids[j]) for j in range(n)] for i in range(n)]
    ).reshape(n, n)


@wrong("4.3", "pieces are documents of their own")
def _(ids):
    piece = np.concatenate([[0], np.cumsum(np.diff(ids) != 0)])
    return (piece[:, None] == piece) & np.tri(len(ids), dtype=bool)


@wrong("4.3", "not causal")
def _(ids):
    return np.equal.outer(ids, ids)


@wrong("4.3", "ids in order, so >= does it")
def _(ids):
    a = torch.tensor(ids)
    return a[:, None] >= a[None, :]


@wrong("4.3", "or instead of and")
def _(ids):
    return (ids[:, None] == ids[None]) | np.tri(len(ids), dtype=bool)


@wrong("4.3", "diagonal blocked")
def _(ids):
    return (ids[:, None] == ids[None]) & np.tri(len(ids), k=-1, dtype=bool)


@right("4.4")
def _(mask):
    m = torch.logical_not(torch.tensor(mask))
    return m if m.ndim == 2 else m.flatten(0, 1)


@wrong("4.4", "not inverted")
def _(mask):
    return mask.copy() if mask.ndim == 2 else mask.reshape(-1, *mask.shape[2:])


@wrong("4.4", "heads first")
def _(mask):
    if mask.ndim == 2:
        return ~mask
    return ~np.concatenate([mask[:, h] for h in range(mask.shape[1])])


@wrong("4.4", "not flattened")
def _(mask):
    return ~mask


@wrong("4.4", "inverted in place")
def _(mask):
    np.logical_not(mask, out=mask)
    return mask if mask.ndim == 2 else mask.reshape(-1, *mask.shape[2:])


@wrong("4.4", "float bias")
def _(mask):
    b = np.where(mask, 0.0, -np.inf)
    return b if b.ndim == 2 else b.reshape(-1, *b.shape[2:])


@wrong("4.4", "first head for all")
def _(mask):
    if mask.ndim == 2:
        return ~mask
    return np.repeat(~mask[:, 0], mask.shape[1], axis=0)


_shapes = {
    "q": (2, 3, 7, 4), "k_transposed": (2, 3, 4, 7), "scores": (2, 3, 7, 7),
    "causal_mask": (1, 1, 7, 7), "padding_mask": (2, 1, 1, 7), "weights": (2, 3, 7, 7),
    "output": (2, 3, 7, 5), "merged": (2, 7, 15),
}  # fmt: skip
right("4.5")({name: torch.Size(shape) for name, shape in _shapes.items()})
wrong("4.5", "values have d_k")({**_shapes, "output": (2, 3, 7, 4), "merged": (2, 7, 12)})
wrong("4.5", "padding on queries")({**_shapes, "padding_mask": (2, 1, 7, 1)})
wrong("4.5", "padding mask full")({**_shapes, "padding_mask": (2, 1, 7, 7)})
wrong("4.5", "heads after tokens")({**_shapes, "q": (2, 7, 3, 4)})
wrong("4.5", "keys not transposed")({**_shapes, "k_transposed": (2, 3, 7, 4)})
wrong("4.5", "merged with four axes forgotten")({**_shapes, "merged": (2, 7, 5)})

# --- chapter 5 -----------------------------------------------------------------------------------


@right("5.1")
def _(q, k, v):
    rows = []
    for t in range(1, len(q) + 1):
        rows.append(
            F.scaled_dot_product_attention(
                *(torch.tensor(a)[None, None] for a in (q[t - 1 : t], k[:t], v[:t]))
            )[0, 0, 0].numpy()
        )
    return np.stack(rows)


@wrong("5.1", "the query does not see itself")
def _(q, k, v):
    out = np.zeros((len(q), v.shape[1]))
    for t in range(1, len(q)):
        s = k[:t] @ q[t] / np.sqrt(q.shape[1])
        w = np.exp(s - s.max())
        out[t] = w @ v[:t] / w.sum()
    return out


@wrong("5.1", "T x T")
def _(q, k, v):
    T, d = q.shape
    s = np.where(np.tri(T, dtype=bool), q @ k.T / np.sqrt(d), -np.inf)
    w = np.exp(s - s.max(1, keepdims=True))
    return w @ v / w.sum(1, keepdims=True)


@wrong("5.1", "no scale")
def _(q, k, v):
    out = []
    ks, vs = [], []
    for a, b, c in zip(q, k, v, strict=True):
        ks.append(b)
        vs.append(c)
        s = np.stack(ks) @ a
        w = np.exp(s - s.max())
        out.append(w @ np.stack(vs) / w.sum())
    return np.array(out)


@wrong("5.1", "exp overflows")
def _(q, k, v):
    out = []
    for t in range(len(q)):
        w = np.exp(k[: t + 1] @ q[t] / np.sqrt(q.shape[1]))
        out.append((w / w.sum()) @ v[: t + 1])
    return np.array(out)


@wrong("5.1", "scaled by dv")
def _(q, k, v):
    out = []
    for t in range(len(q)):
        s = k[: t + 1] @ q[t] / np.sqrt(v.shape[1])
        w = np.exp(s - s.max())
        out.append((w / w.sum()) @ v[: t + 1])
    return np.array(out)


@wrong("5.1", "the last query asks every time")
def _(q, k, v):
    out = []
    for t in range(len(q)):
        s = k[: t + 1] @ q[-1] / np.sqrt(q.shape[1])
        w = np.exp(s - s.max())
        out.append((w / w.sum()) @ v[: t + 1])
    return np.array(out)


def _chunk(
    q, kn, vn, kc, vc, *, offset=None, share="repeat", grow=False, order=0, scale=True, strict=0
):
    k, v = (
        np.concatenate([kc, kn][:: -1 if order else 1], 1),
        np.concatenate([vc, vn][:: -1 if order else 1], 1),
    )
    H, M, d = q.shape
    G, S, _ = k.shape
    C = S - M
    pick = [h // (H // G) if share == "repeat" else h % G for h in range(H)]
    out = np.zeros((H, M, v.shape[-1]))
    for h in range(H):
        for m in range(M):
            stop = (C if offset is None else offset) + m + 1 - strict
            s = k[pick[h], :stop] @ q[h, m] / (math.sqrt(d) if scale else 1)
            if not len(s):
                continue
            w = np.exp(s - s.max())
            out[h, m] = w @ v[pick[h], :stop] / w.sum()
    return (out, k[pick], v[pick]) if grow else (out, k, v)


@right("5.2")
def _(q_new, k_new, v_new, k_cache, v_cache):
    return _chunk(q_new, k_new, v_new, k_cache, v_cache)


@right("5.2")
def _(q_new, k_new, v_new, k_cache, v_cache):
    q, kn, vn, kc, vc = map(torch.tensor, (q_new, k_new, v_new, k_cache, v_cache))
    k, v = torch.cat((kc, kn), dim=-2), torch.cat((vc, vn), dim=-2)
    c, m = kc.shape[-2], q.shape[-2]
    see = torch.arange(c + m)[None] <= (c + torch.arange(m))[:, None]
    out = F.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=see, enable_gqa=True)
    return out[0], k, v


@wrong("5.2", "mask from the top left")
def _(q_new, k_new, v_new, k_cache, v_cache):
    return _chunk(q_new, k_new, v_new, k_cache, v_cache, offset=0)


@wrong("5.2", "heads shared in turns")
def _(q_new, k_new, v_new, k_cache, v_cache):
    return _chunk(q_new, k_new, v_new, k_cache, v_cache, share="tile")


@wrong("5.2", "no mask in the chunk")
def _(q, kn, vn, kc, vc):
    q, kn, vn, kc, vc = map(torch.tensor, (q, kn, vn, kc, vc))
    k, v = torch.cat([kc, kn], 1), torch.cat([vc, vn], 1)
    n = q.shape[0] // k.shape[0]
    w = torch.softmax(q @ k.repeat_interleave(n, 0).mT / q.shape[-1] ** 0.5, -1)
    return w @ v.repeat_interleave(n, 0), k, v


@wrong("5.2", "the cache grows to all query heads")
def _(q_new, k_new, v_new, k_cache, v_cache):
    return _chunk(q_new, k_new, v_new, k_cache, v_cache, grow=True)


@wrong("5.2", "cache after the chunk")
def _(q_new, k_new, v_new, k_cache, v_cache):
    return _chunk(q_new, k_new, v_new, k_cache, v_cache, order=1)


@wrong("5.2", "the old cache comes back")
def _(q_new, k_new, v_new, k_cache, v_cache):
    out, _, _ = _chunk(q_new, k_new, v_new, k_cache, v_cache)
    return out, k_cache, v_cache


@wrong("5.2", "itself excluded")
def _(q_new, k_new, v_new, k_cache, v_cache):
    return _chunk(q_new, k_new, v_new, k_cache, v_cache, strict=1)


@wrong("5.2", "the new keys only")
def _(q_new, k_new, v_new, k_cache, v_cache):
    out, _, _ = _chunk(q_new, k_new, v_new, k_cache[:, :0], v_cache[:, :0])
    return out, np.concatenate([k_cache, k_new], 1), np.concatenate([v_cache, v_new], 1)


@right("5.3")
class _:
    def __init__(self, capacity):
        self.room, self.n, self.buffers = capacity, 0, None

    def append(self, k, v):
        t = k.shape[1]
        if t > self.room - self.n:
            raise ValueError("full")
        if self.buffers is None:
            self.buffers = tuple(
                torch.empty(a.shape[0], self.room, a.shape[2], dtype=torch.from_numpy(a).dtype)
                for a in (k, v)
            )
        for buffer, new in zip(self.buffers, (k, v), strict=True):
            buffer[:, self.n : self.n + t] = torch.from_numpy(new)
        self.n += t

    def view(self):
        return tuple(buffer[:, : self.n] for buffer in self.buffers)


@wrong("5.3", "concatenates")
class _:
    def __init__(self, capacity):
        self.capacity, self.k, self.v = capacity, None, None

    def append(self, k, v):
        have = 0 if self.k is None else self.k.shape[1]
        if have + k.shape[1] > self.capacity:
            raise ValueError
        self.k = k.copy() if self.k is None else np.concatenate([self.k, k], 1)
        self.v = v.copy() if self.v is None else np.concatenate([self.v, v], 1)

    def view(self):
        return self.k, self.v


@wrong("5.3", "a list of references")
class _:
    def __init__(self, capacity):
        self.capacity, self.ks, self.vs = capacity, [], []

    def append(self, k, v):
        if sum(a.shape[1] for a in self.ks) + k.shape[1] > self.capacity:
            raise ValueError
        self.ks.append(k)
        self.vs.append(v)

    def view(self):
        return np.concatenate(self.ks, 1), np.concatenate(self.vs, 1)


@wrong("5.3", "keeps what fits, then raises")
class _:
    def __init__(self, capacity):
        self.c, self.n, self.k = capacity, 0, None

    def append(self, k, v):
        if self.k is None:
            self.k = np.zeros((k.shape[0], self.c, k.shape[2]), k.dtype)
            self.v = np.zeros((v.shape[0], self.c, v.shape[2]), v.dtype)
        for t in range(k.shape[1]):
            if self.n == self.c:
                raise ValueError("full")
            self.k[:, self.n], self.v[:, self.n] = k[:, t], v[:, t]
            self.n += 1

    def view(self):
        return self.k[:, : self.n], self.v[:, : self.n]


@wrong("5.3", "the whole buffer in view")
class _:
    def __init__(self, capacity):
        self.c, self.n, self.k = capacity, 0, None

    def append(self, k, v):
        if self.k is None:
            self.k = np.zeros((k.shape[0], self.c, k.shape[2]), k.dtype)
            self.v = np.zeros((v.shape[0], self.c, v.shape[2]), v.dtype)
        t = k.shape[1]
        if self.n + t > self.c:
            raise ValueError("full")
        self.k[:, self.n : self.n + t], self.v[:, self.n : self.n + t] = k, v
        self.n += t

    def view(self):
        return self.k, self.v


@wrong("5.3", "one too few fits (>=)")
class _:
    def __init__(self, capacity):
        self.c, self.n, self.k = capacity, 0, None

    def append(self, k, v):
        t = k.shape[1]
        if self.n + t >= self.c:
            raise ValueError("full")
        if self.k is None:
            self.k = np.zeros((k.shape[0], self.c, k.shape[2]), k.dtype)
            self.v = np.zeros((v.shape[0], self.c, v.shape[2]), v.dtype)
        self.k[:, self.n : self.n + t], self.v[:, self.n : self.n + t] = k, v
        self.n += t

    def view(self):
        return self.k[:, : self.n], self.v[:, : self.n]


@wrong("5.3", "always float64")
class _:
    def __init__(self, capacity):
        self.c, self.n, self.k = capacity, 0, None

    def append(self, k, v):
        t = k.shape[1]
        if self.n + t > self.c:
            raise ValueError("full")
        if self.k is None:
            self.k = np.zeros((k.shape[0], self.c, k.shape[2]))
            self.v = np.zeros((v.shape[0], self.c, v.shape[2]))
        self.k[:, self.n : self.n + t], self.v[:, self.n : self.n + t] = k, v
        self.n += t

    def view(self):
        return self.k[:, : self.n], self.v[:, : self.n]


@wrong("5.3", "v in the shape of k")
class _:
    def __init__(self, capacity):
        self.c, self.n, self.k = capacity, 0, None

    def append(self, k, v):
        t = k.shape[1]
        if self.n + t > self.c:
            raise ValueError("full")
        if self.k is None:
            self.k = np.zeros((k.shape[0], self.c, k.shape[2]), k.dtype)
            self.v = np.zeros_like(self.k)
        self.k[:, self.n : self.n + t], self.v[:, self.n : self.n + t] = k, v
        self.n += t

    def view(self):
        return self.k[:, : self.n], self.v[:, : self.n]


@right("5.4")
class _:
    def __init__(self, window):
        self.w, self.k, self.v = window, None, None

    def append(self, k, v):
        if self.k is None:
            self.k, self.v = k[:, -self.w :].copy(), v[:, -self.w :].copy()
        else:
            self.k = np.concatenate([self.k, k], 1)[:, -self.w :].copy()
            self.v = np.concatenate([self.v, v], 1)[:, -self.w :].copy()

    def view(self):
        return self.k, self.v


@wrong("5.4", "slots as they lie")
class _:
    def __init__(self, window):
        self.w, self.n, self.k = window, 0, None

    def append(self, k, v):
        if self.k is None:
            self.k = np.zeros((k.shape[0], self.w, k.shape[2]), k.dtype)
            self.v = np.zeros((v.shape[0], self.w, v.shape[2]), v.dtype)
        for t in range(k.shape[1]):
            self.k[:, self.n % self.w], self.v[:, self.n % self.w] = k[:, t], v[:, t]
            self.n += 1

    def view(self):
        m = min(self.n, self.w)
        return self.k[:, :m], self.v[:, :m]


@wrong("5.4", "keeps window - 1")
class _:
    def __init__(self, window):
        self.w, self.ks, self.vs = window, [], []

    def append(self, k, v):
        for t in range(k.shape[1]):
            self.ks.append(k[:, t].copy())
            self.vs.append(v[:, t].copy())
            while len(self.ks) >= self.w and len(self.ks) > 1:
                self.ks.pop(0)
                self.vs.pop(0)

    def view(self):
        return np.stack(self.ks, 1), np.stack(self.vs, 1)


@wrong("5.4", "never forgets, cuts in view")
class _:
    def __init__(self, window):
        self.w, self.ks, self.vs = window, [], []

    def append(self, k, v):
        self.ks.append(k.copy())
        self.vs.append(v.copy())

    def view(self):
        return np.concatenate(self.ks, 1)[:, -self.w :], np.concatenate(self.vs, 1)[:, -self.w :]


@wrong("5.4", "newest first")
class _:
    def __init__(self, window):
        self.w, self.ks, self.vs = window, [], []

    def append(self, k, v):
        for t in range(k.shape[1]):
            self.ks = [k[:, t].copy(), *self.ks][: self.w]
            self.vs = [v[:, t].copy(), *self.vs][: self.w]

    def view(self):
        return np.stack(self.ks, 1), np.stack(self.vs, 1)


@wrong("5.4", "a chunk larger than the window breaks")
class _:
    def __init__(self, window):
        self.w, self.n, self.k = window, 0, None

    def append(self, k, v):
        if self.k is None:
            self.k = np.zeros((k.shape[0], self.w, k.shape[2]), k.dtype)
            self.v = np.zeros((v.shape[0], self.w, v.shape[2]), v.dtype)
        t = k.shape[1]
        self.k = np.roll(self.k, -t, 1)
        self.v = np.roll(self.v, -t, 1)
        self.k[:, -t:], self.v[:, -t:] = k, v
        self.n += t

    def view(self):
        m = min(self.n, self.w)
        return self.k[:, self.w - m :], self.v[:, self.w - m :]


@wrong("5.4", "slices without copying")
class _:
    def __init__(self, window):
        self.w, self.k, self.v = window, None, None

    def append(self, k, v):
        self.k = k[:, -self.w :] if self.k is None else np.concatenate([self.k, k], 1)[:, -self.w :]
        self.v = v[:, -self.w :] if self.v is None else np.concatenate([self.v, v], 1)[:, -self.w :]

    def view(self):
        return self.k, self.v


@right("5.5")
def _(layers, kv_heads, head_dim, tokens, batch, bytes_per_value):
    return math.prod([2, layers, kv_heads, head_dim, tokens, batch, bytes_per_value])


@wrong("5.5", "keys only")
def _(layers, kv_heads, head_dim, tokens, batch, bytes_per_value):
    return layers * kv_heads * head_dim * tokens * batch * bytes_per_value


@wrong("5.5", "bits")
def _(layers, kv_heads, head_dim, tokens, batch, bytes_per_value):
    return 2 * layers * kv_heads * head_dim * tokens * batch * bytes_per_value * 8


@wrong("5.5", "batch forgotten")
def _(layers, kv_heads, head_dim, tokens, batch, bytes_per_value):
    return 2 * layers * kv_heads * head_dim * tokens * bytes_per_value


@wrong("5.5", "KiB")
def _(layers, kv_heads, head_dim, tokens, batch, bytes_per_value):
    return 2 * layers * kv_heads * head_dim * tokens * batch * bytes_per_value // 1024


@wrong("5.5", "a float, inexact when large")
def _(layers, kv_heads, head_dim, tokens, batch, bytes_per_value):
    return 2.0 * layers * kv_heads * head_dim * tokens * batch * bytes_per_value


@wrong("5.5", "one layer")
def _(layers, kv_heads, head_dim, tokens, batch, bytes_per_value):
    return 2 * kv_heads * head_dim * tokens * batch * bytes_per_value


@wrong("5.5", "32-bit integers")
def _(layers, kv_heads, head_dim, tokens, batch, bytes_per_value):
    with np.errstate(over="ignore"):
        n = np.int32(2)
        for f in (layers, kv_heads, head_dim, tokens, batch, bytes_per_value):
            n = np.int32(np.int64(n) * f & 0x7FFFFFFF)
    return int(n)


@right("5.6")
def _(step, prompt, n):
    if n == 0:
        step(list(prompt))
        return []
    new = [int(torch.tensor(step(list(prompt))).argmax())]
    while len(new) < n:
        new.append(int(np.argmax(step(new[-1:]))))
    return new


@wrong("5.6", "the whole text again each time")
def _(step, prompt, n):
    text = list(prompt)
    for _ in range(n):
        text.append(int(step(text).argmax()))
    return text[len(prompt) :]


@wrong("5.6", "with the prompt")
def _(step, prompt, n):
    text, feed = list(prompt), list(prompt)
    for _ in range(n):
        feed = [int(np.argmax(step(feed)))]
        text += feed
    return text


@wrong("5.6", "feeds the last one too")
def _(step, prompt, n):
    logits = step(prompt)
    out = []
    for _ in range(n):
        out.append(int(logits.argmax()))
        logits = step([out[-1]])
    return out


@wrong("5.6", "the last prompt token twice")
def _(step, prompt, n):
    step(prompt)
    last, out = prompt[-1], []
    for _ in range(n):
        last = int(np.argmax(step([last])))
        out.append(last)
    return out


@wrong("5.6", "samples")
def _(step, prompt, n):
    out, feed = [], list(prompt)
    rng = np.random.default_rng(0)
    for _ in range(n):
        p = _soft(step(feed))
        feed = [int(rng.choice(len(p), p=p))]
        out += feed
    return out


@wrong("5.6", "only the last token of the prompt")
def _(step, prompt, n):
    out, last = [], prompt[-1]
    for _ in range(n):
        last = int(np.argmax(step([last])))
        out.append(last)
    return out


@wrong("5.6", "appends to the prompt")
def _(step, prompt, n):
    m = len(prompt)
    logits = step(list(prompt)) if n else None
    for i in range(n):
        prompt.append(int(np.argmax(logits)))
        if i < n - 1:
            logits = step(prompt[-1:])
    return prompt[m:]


# --- chapter 6 -----------------------------------------------------------------------------------


@right("6.1")
def _(n, p):
    one = np.ndim(p) == 0
    out = np.zeros((1 if one else len(p), 1, n, n), bool)
    for b, size in enumerate(np.atleast_1d(p)):
        for i, j in itertools.product(range(n), repeat=2):
            out[b, 0, i, j] = j <= i or (i < size and j < size)
    return torch.tensor(out[0, 0] if one else out)


@wrong("6.1", "prefix rows see everything")
def _(n, p):
    i, j = np.arange(n)[:, None], np.arange(n)
    p = np.asarray(p)
    q = p if p.ndim == 0 else p[:, None, None, None]
    return (j <= i) | (i < q)


@wrong("6.1", "plain causal")
def _(n, p):
    m = torch.tril(torch.ones(n, n, dtype=torch.bool))
    return m if np.ndim(p) == 0 else m.expand(len(p), 1, n, n)


@wrong("6.1", "batch axis lands on the rows")
def _(n, p):
    i, j = np.arange(n)[:, None], np.arange(n)
    p = np.asarray(p)
    if p.ndim == 0:
        return (j <= i) | (j < p)
    return (np.zeros((len(p), 1, n, n), bool)) | (j <= i) | (j < p.max())


@wrong("6.1", "prefix one too long")
def _(n, p):
    i, j = np.arange(n)[:, None], np.arange(n)
    p = np.asarray(p)
    q = p if p.ndim == 0 else p[:, None, None, None]
    return (j <= i) | ((i <= q) & (j <= q))


@wrong("6.1", "only one text")
def _(n, p):
    m = np.tri(n, dtype=bool)
    m[:, :p] = True
    return m


@wrong("6.1", "no head axis")
def _(n, p):
    p = np.asarray(p)
    j = np.arange(n)
    return np.tri(n, dtype=bool) | (j < p[..., None, None])


_q6 = np.array([[1, 0, 1, 0], [0, 2, 0, 1], [1, 1, 1, 0], [0, 0, 1, 1], [1, 0, 0, 1]], float)


def _table(allowed, scale=2.0):
    s = np.where(allowed, _q6 @ _k.T / scale, -np.inf)
    e = np.exp(s - s.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _prefixed(p):
    m = np.tri(5, dtype=bool)
    m[:p, :p] = True
    return m


right("6.2")([_table(_prefixed(p)).round(4).tolist() for p in (2, 3)])
wrong("6.2", "causal table twice")(np.stack([_table(np.tri(5, dtype=bool))] * 2))
wrong("6.2", "no scale")(np.stack([_table(_prefixed(p), 1.0) for p in (2, 3)]))
wrong("6.2", "exchanged")(np.stack([_table(_prefixed(p)) for p in (3, 2)]))
wrong("6.2", "one table")(_table(_prefixed(2)))
wrong("6.2", "no mask")(np.stack([_table(np.ones((5, 5), bool))] * 2))
wrong("6.2", "prefix rows see all")(
    np.stack([_table(np.tri(5, dtype=bool) | (np.arange(5)[:, None] < p)) for p in (2, 3)])
)


@right("6.3")
def _(n, width, sinks=0):
    out = torch.zeros((n, n), dtype=torch.bool)
    for i in range(n):
        out[i, max(0, i - width + 1) : i + 1] = True
        out[i, : min(sinks, i + 1)] = True
    return out


@wrong("6.3", "width one too many")
def _(n, width, sinks=0):
    i, j = np.ogrid[:n, :n]
    return (j <= i) & ((i - j <= width) | (j < sinks))


@wrong("6.3", "sinks before their time")
def _(n, width, sinks=0):
    i, j = np.ogrid[:n, :n]
    return ((j <= i) & (i - j < width)) | (j < sinks)


@wrong("6.3", "sinks count into the width")
def _(n, width, sinks=0):
    i, j = np.ogrid[:n, :n]
    return (j <= i) & ((i - j < max(1, width - sinks)) | (j < sinks))


@wrong("6.3", "sinks required")
def _(n, width, sinks):
    i, j = np.ogrid[:n, :n]
    return (j <= i) & ((i - j < width) | (j < sinks))


@wrong("6.3", "sinks ignored")
def _(n, width, sinks=0):
    m = torch.ones(n, n, dtype=torch.bool)
    return m.tril() & m.triu(1 - width)


@wrong("6.3", "two-sided window")
def _(n, width, sinks=0):
    i, j = np.ogrid[:n, :n]
    return (abs(i - j) < width) | (j < sinks)


@right("6.4")
def _(tokens, p):
    x, y = [list(r[:-1]) for r in tokens], [list(r[1:]) for r in tokens]
    keep = [[t + 1 >= size for t in range(len(x[0]))] for size in p]
    return np.array(x), np.array(y), np.array(keep)


@wrong("6.4", "one too late")
def _(tokens, p):
    t = np.arange(tokens.shape[1] - 1)
    return tokens[:, :-1], tokens[:, 1:], t[None] >= p[:, None]


@wrong("6.4", "keep inverted")
def _(tokens, p):
    t = torch.arange(tokens.shape[1] - 1)
    return tokens[:, :-1], tokens[:, 1:], t[None] + 1 < torch.tensor(p)[:, None]


@wrong("6.4", "the same prompt length for all")
def _(tokens, p):
    t = np.arange(1, tokens.shape[1])
    return tokens[:, :-1], tokens[:, 1:], np.broadcast_to(t >= p[0], (len(p), len(t)))


@wrong("6.4", "targets masked with -100")
def _(tokens, p):
    t = np.arange(1, tokens.shape[1])
    keep = t[None] >= p[:, None]
    return tokens[:, :-1], np.where(keep, tokens[:, 1:], -100), keep


@wrong("6.4", "keep of T")
def _(tokens, p):
    return tokens[:, :-1], tokens[:, 1:], np.arange(tokens.shape[1])[None] >= p[:, None]


@wrong("6.4", "everything kept")
def _(tokens, p):
    return tokens[:, :-1], tokens[:, 1:], np.ones((len(p), tokens.shape[1] - 1), bool)


@right("6.5")
def _(old_mask, new_mask, layers):
    n = len(old_mask)
    ok = [True] * n
    rows = []
    for _ in range(layers):
        rows.append(list(ok))
        nxt = []
        for j in range(n):
            same = set(np.flatnonzero(old_mask[j])) == set(np.flatnonzero(new_mask[j]))
            nxt.append(same and all(ok[s] for s in np.flatnonzero(old_mask[j])))
        ok = nxt
    return rows


@wrong("6.5", "rows compared, no spreading")
def _(old_mask, new_mask, layers):
    n = len(old_mask)
    same = (old_mask == new_mask[:n, :n]).all(1) & ~new_mask[:n, n:].any(1)
    return np.stack([np.ones(n, bool)] + [same] * (layers - 1))


@wrong("6.5", "new columns forgotten")
def _(old_mask, new_mask, layers):
    n = len(old_mask)
    same = (old_mask == new_mask[:n, :n]).all(1)
    rows = [np.ones(n, bool)]
    for _ in range(layers - 1):
        rows.append(same & np.array([rows[-1][old_mask[j]].all() for j in range(n)]))
    return np.array(rows)


@wrong("6.5", "layer 0 too")
def _(old_mask, new_mask, layers):
    n = len(old_mask)
    same = (old_mask == new_mask[:n, :n]).all(1) & ~new_mask[:n, n:].any(1)
    rows = [same]
    for _ in range(layers - 1):
        rows.append(same & np.array([rows[-1][old_mask[j]].all() for j in range(n)]))
    return np.array(rows)


@wrong("6.5", "all or nothing")
def _(old_mask, new_mask, layers):
    n = len(old_mask)
    return np.full((layers, n), bool((old_mask == new_mask[:n, :n]).all()))


@wrong("6.5", "prefix up to the first change")
def _(old_mask, new_mask, layers):
    n = len(old_mask)
    same = (old_mask == new_mask[:n, :n]).all(1) & ~new_mask[:n, n:].any(1)
    good = np.logical_and.accumulate(same)
    return np.stack([np.ones(n, bool)] + [good] * (layers - 1))


@wrong("6.5", "only added cells count")
def _(old_mask, new_mask, layers):
    n = len(old_mask)
    same = ~(new_mask[:n, :n] & ~old_mask).any(1) & ~new_mask[:n, n:].any(1)
    rows = [np.ones(n, bool)]
    for _ in range(layers - 1):
        rows.append(same & np.array([rows[-1][new_mask[j, :n]].all() for j in range(n)]))
    return np.array(rows)


# --- chapter 7 -----------------------------------------------------------------------------------


@right("7.1")
def _(m, l, acc, scores, values):
    M, L, A = m.copy(), l.copy(), acc.copy()
    for i in range(len(m)):
        top = max(m[i], scores[i].max())
        if top == -math.inf:
            continue
        old = math.exp(m[i] - top) if m[i] > -math.inf else 0.0
        p = np.exp(scores[i] - top)
        M[i], L[i], A[i] = top, l[i] * old + p.sum(), acc[i] * old + p @ values
    return M, L, A


@wrong("7.1", "not rescaled")
def _(m, l, acc, scores, values):
    new = np.maximum(m, scores.max(1))
    p = np.exp(scores - np.where(np.isinf(new), 0, new)[:, None])
    return new, l + p.sum(1), acc + p @ values


@wrong("7.1", "NaN for empty rows")
def _(m, l, acc, scores, values):
    new = np.maximum(m, scores.max(1))
    p, f = np.exp(scores - new[:, None]), np.exp(m - new)
    return new, l * f + p.sum(1), acc * f[:, None] + p @ values


@wrong("7.1", "acc not rescaled")
def _(m, l, acc, scores, values):
    new = np.maximum(m, scores.max(1))
    safe = np.where(np.isinf(new), 0, new)
    p, f = np.exp(scores - safe[:, None]), np.exp(m - safe)
    return new, l * f + p.sum(1), acc + p @ values


@wrong("7.1", "factor the other way round")
def _(m, l, acc, scores, values):
    new = np.maximum(m, scores.max(1))
    safe = np.where(np.isinf(new), 0, new)
    p = np.exp(scores - safe[:, None])
    f = np.where(np.isinf(m), 0, np.exp(safe - m))
    return new, l * f + p.sum(1), acc * f[:, None] + p @ values


@wrong("7.1", "one maximum for all rows")
def _(m, l, acc, scores, values):
    new = np.full_like(m, max(m.max(), scores.max()))
    safe = np.where(np.isinf(new), 0, new)
    p, f = np.exp(scores - safe[:, None]), np.exp(m - safe)
    return new, l * f + p.sum(1), acc * f[:, None] + p @ values


@wrong("7.1", "normalised in each block")
def _(m, l, acc, scores, values):
    new = np.maximum(m, scores.max(1))
    safe = np.where(np.isinf(new), 0, new)
    p, f = np.exp(scores - safe[:, None]), np.exp(m - safe)
    L = l * f + p.sum(1)
    return new, L, (acc * f[:, None] + p @ values) / np.where(L == 0, 1, L)[:, None]


@wrong("7.1", "in place")
def _(m, l, acc, scores, values):
    new = np.maximum(m, scores.max(1))
    safe = np.where(np.isinf(new), 0, new)
    p, f = np.exp(scores - safe[:, None]), np.exp(m - safe)
    l *= f
    l += p.sum(1)
    acc *= f[:, None]
    acc += p @ values
    m[:] = new
    return m, l, acc


@right("7.2")
def _(n, block):
    out = {"full": 0, "partial": 0, "empty": 0}
    for top in range(0, n, block):
        last_row = min(top + block, n) - 1
        r = top // block
        tiles = -(-n // block)
        out["full"] += r + (last_row == top)
        out["partial"] += last_row > top
        out["empty"] += tiles - r - 1
    return out


@wrong("7.2", "diagonal always partial")
def _(n, block):
    r = math.ceil(n / block)
    return {"full": r * (r - 1) // 2, "partial": r, "empty": r * (r - 1) // 2}


@wrong("7.2", "floor instead of ceiling")
def _(n, block):
    r = n // block
    return {"full": r * (r - 1) // 2, "partial": r, "empty": r * (r - 1) // 2}


@wrong("7.2", "builds the mask")
def _(n, block):
    m = np.tri(n, dtype=bool)
    out = {"full": 0, "partial": 0, "empty": 0}
    for i in range(0, n, block):
        for j in range(0, n, block):
            t = m[i : i + block, j : j + block]
            out["full" if t.all() else "partial" if t.any() else "empty"] += 1
    return out


@wrong("7.2", "full and empty exchanged")
def _(n, block):
    r = -(-n // block)
    lone = r if block == 1 else int(n % block == 1)
    return {"full": r * (r - 1) // 2, "partial": r - lone, "empty": r * (r - 1) // 2 + lone}


@wrong("7.2", "cells instead of tiles")
def _(n, block):
    return {"full": n * (n - 1) // 2, "partial": n, "empty": n * (n - 1) // 2}


@wrong("7.2", "block 1 forgotten")
def _(n, block):
    r = -(-n // block)
    lone = int(n % block == 1)
    half = r * (r - 1) // 2
    return {"full": half + lone, "partial": r - lone, "empty": half}


def _flash(q, k, v, block, *, offset=None, all_tiles=False, full_rows=False, tail=True, scale=True):
    T, S = len(q), len(k)
    off = S - T if offset is None else offset
    out = np.zeros((T, v.shape[1]), q.dtype)
    width = S if full_rows else block
    for a in range(0, T, block):
        rows = np.arange(a, min(a + block, T))
        m = np.full(len(rows), -np.inf)
        l, acc = np.zeros(len(rows)), np.zeros((len(rows), v.shape[1]))
        for b in range(0, S, width):
            if not all_tiles and b > off + rows[-1]:
                break
            cols = np.arange(b, min(b + width, S))
            s = q[rows] @ k[cols].T * (q.shape[1] ** -0.5 if scale else 1)
            if not full_rows:
                s = np.where(cols <= off + rows[:, None], s, -np.inf)
            else:
                s = np.where(cols <= off + rows[:, None], s, -np.inf)
            new = np.maximum(m, s.max(1))
            safe = np.where(np.isinf(new), 0, new)
            p, f = np.exp(s - safe[:, None]), np.exp(m - safe)
            l, acc, m = l * f + p.sum(1), acc * f[:, None] + p @ v[cols], new
        out[rows] = acc / l[:, None]
    return out


@right("7.3")
def _(q, k, v, block):
    return _flash(q, k, v, block)


@wrong("7.3", "queries at the beginning")
def _(q, k, v, block):
    return _flash(q, k, v, block, offset=0)


@wrong("7.3", "all tiles are computed")
def _(q, k, v, block):
    return _flash(q, k, v, block, all_tiles=True)


@wrong("7.3", "whole rows of tiles")
def _(q, k, v, block):
    return _flash(q, k, v, block, full_rows=True)


@wrong("7.3", "plain attention")
def _(q, k, v, block):
    T, S = len(q), len(k)
    s = np.where(np.tri(T, S, S - T, dtype=bool), q @ k.T / np.sqrt(q.shape[1]), -np.inf)
    w = np.exp(s - s.max(1, keepdims=True))
    return w / w.sum(1, keepdims=True) @ v


@wrong("7.3", "no scale")
def _(q, k, v, block):
    return _flash(q, k, v, block, scale=False)


@wrong("7.3", "last, smaller tile left out")
def _(q, k, v, block):
    n = len(k) // block * block
    if n == 0:
        return np.zeros((len(q), v.shape[1]))
    out = np.zeros((len(q), v.shape[1]))
    m = len(q) // block * block
    if m:
        out[:m] = _flash(q, k, v, block)[:m]
    return out


@right("7.4")
def _(n, d, heads, batch, causal):
    pairs = sum(i + 1 for i in range(n)) if causal else n * n
    return 7 * 2 * d * pairs * heads * batch


@wrong("7.4", "half of n squared")
def _(n, d, heads, batch, causal):
    return 14 * d * heads * batch * n * n // (2 if causal else 1)


@wrong("7.4", "forward only")
def _(n, d, heads, batch, causal):
    return 4 * d * heads * batch * (n * (n + 1) // 2 if causal else n * n)


@wrong("7.4", "scores made once")
def _(n, d, heads, batch, causal):
    return 12 * d * heads * batch * (n * (n + 1) // 2 if causal else n * n)


@wrong("7.4", "a multiply-add is one")
def _(n, d, heads, batch, causal):
    return 7 * d * heads * batch * (n * (n + 1) // 2 if causal else n * n)


@wrong("7.4", "diagonal left out")
def _(n, d, heads, batch, causal):
    return 14 * d * heads * batch * (n * (n - 1) // 2 if causal else n * n)


@wrong("7.4", "causal ignored")
def _(n, d, heads, batch, causal):
    return 14 * d * heads * batch * n * n


@wrong("7.4", "backward only")
def _(n, d, heads, batch, causal):
    return 10 * d * heads * batch * (n * (n + 1) // 2 if causal else n * n)


@wrong("7.4", "a float")
def _(n, d, heads, batch, causal):
    return 14 * d * heads * batch * (n * (n + 1) / 2 if causal else n * n)


#: 7.5: (thought, what a student writes in place of the stub's `raise`).
LOOPS: list[tuple[str, str]] = [
    (
        "",
        """
first = tl.maximum(block * BLOCK - WINDOW + 1, 0)
for start in range(first, tl.minimum((block + 1) * BLOCK, n_tokens), BLOCK):
    k_pos = start + tl.arange(0, BLOCK)
    at = (head * n_tokens + k_pos[:, None]) * D + d[None, :]
    there = (k_pos < tl.minimum((block + 1) * BLOCK, n_tokens))[:, None]
    k = tl.load(k_ptr + at, mask=there, other=0.0)
    v = tl.load(v_ptr + at, mask=there, other=0.0)
    far = q_pos[:, None] - k_pos[None, :]
    s = tl.where((far >= 0) & (far < WINDOW), tl.dot(q, tl.trans(k)) * scale, float("-inf"))
    new = tl.maximum(peak, tl.max(s, 1))
    safe = tl.where(new == float("-inf"), 0.0, new)
    p = tl.exp(s - safe[:, None])
    old = tl.exp(peak - safe)
    total = total * old + tl.sum(p, 1)
    acc = acc * old[:, None] + tl.dot(p, v)
    peak = new
""",
    ),
    (
        "",
        """
for back in range(0, tl.cdiv(WINDOW - 1, BLOCK) + 1):
    if back <= block:
        k_pos = (block - back) * BLOCK + tl.arange(0, BLOCK)
        at = (head * n_tokens + k_pos[:, None]) * D + d[None, :]
        k = tl.load(k_ptr + at, mask=k_pos[:, None] < n_tokens, other=0.0)
        v = tl.load(v_ptr + at, mask=k_pos[:, None] < n_tokens, other=0.0)
        s = tl.sum(q[:, None, :] * k[None, :, :], 2) * scale
        s = tl.where(k_pos[None, :] <= q_pos[:, None], s, float("-inf"))
        s = tl.where(k_pos[None, :] > q_pos[:, None] - WINDOW, s, float("-inf"))
        new = tl.maximum(peak, tl.max(s, 1))
        p = tl.exp(s - new[:, None])
        old = tl.exp(peak - new)
        total = total * old + tl.sum(p, 1)
        acc = acc * old[:, None] + tl.sum(p[:, :, None] * v[None, :, :], 1)
        peak = new
""",
    ),
]


def _kernel(head: str, rule: str, guard: str = "tl.where(new == float('-inf'), 0.0, new)",
            scale: str = "scale", rescale: str = "tl.exp(peak - safe)") -> str:  # fmt: skip
    return f"""
{head}
    k_pos = start + tl.arange(0, BLOCK)
    at = (head * n_tokens + k_pos[:, None]) * D + d[None, :]
    k = tl.load(k_ptr + at, mask=k_pos[:, None] < n_tokens, other=0.0)
    v = tl.load(v_ptr + at, mask=k_pos[:, None] < n_tokens, other=0.0)
    far = q_pos[:, None] - k_pos[None, :]
    s = tl.where({rule}, tl.dot(q, tl.trans(k)) * {scale}, float("-inf"))
    new = tl.maximum(peak, tl.max(s, 1))
    safe = {guard}
    p = tl.exp(s - safe[:, None])
    old = {rescale}
    total = total * old + tl.sum(p, 1)
    acc = acc * old[:, None] + tl.dot(p, v)
    peak = new
"""


_FROM_WINDOW = (
    "for start in range(tl.maximum(block * BLOCK - WINDOW + 1, 0) // BLOCK * BLOCK,"
    " (block + 1) * BLOCK, BLOCK):"
)
_RULE = "(far >= 0) & (far < WINDOW)"
LOOPS += [
    ("", _kernel(_FROM_WINDOW, _RULE)),
    ("starts at key 0", _kernel("for start in range(0, (block + 1) * BLOCK, BLOCK):", _RULE)),
    ("goes to the end of the text", _kernel(_FROM_WINDOW.replace("(block + 1) * BLOCK", "n_tokens"), _RULE)),
    ("-inf minus -inf", _kernel(_FROM_WINDOW, _RULE, guard="new")),
    ("window one too wide", _kernel(_FROM_WINDOW, "(far >= 0) & (far <= WINDOW)")),
    ("plain causal, as in the lesson", _kernel("for start in range(0, (block + 1) * BLOCK, BLOCK):", "far >= 0")),
    ("the future is open", _kernel(_FROM_WINDOW, "far < WINDOW")),
    ("no scale", _kernel(_FROM_WINDOW, _RULE, scale="1.0")),
    ("not rescaled", _kernel(_FROM_WINDOW, _RULE, rescale="1.0")),
    ("the diagonal block only", _kernel("for start in range(block * BLOCK, (block + 1) * BLOCK, BLOCK):", _RULE)),
    ("itself excluded", _kernel(_FROM_WINDOW, "(far > 0) & (far <= WINDOW)")),
]  # fmt: skip


#: What the visible checks may call them, read one by one and found true; others stay unnamed.
NAMES: dict[str, str] = {
    "5.3 concatenates": "grows by concatenation",
    "1.1 row t is about word t": "no shift",
    "1.1 exp overflows": "exp overflows",
    "1.1 mean instead of sum": "mean instead of sum",
    "1.1 probability instead of its logarithm": "probability instead of its logarithm",
    "1.2 cuts the batch axis": "shifted along the first axis",
    "1.2 swapped": "shifted backwards",
    "1.2 rolls instead of cutting": "rolled around",
    "1.2 no shift, the loss will do it": "targets equal inputs",
    "1.3 one try": "too few tries",
    "1.3 transposed": "transposed",
    "1.3 small steps (a derivative)": "steps too small",
    "1.3 assumes a causal function": "hard-coded triangle",
    "1.3 compares with !=, so rounding counts": "rounding taken for influence",
    "1.3 np.allclose, whose tolerance is 1e-8 + 1e-5 relative": "threshold too coarse",
    "1.4 the first word is not counted": "first word not predicted",
    "1.4 entropy of the word's own distribution, memory ignored": "past ignored",
    "1.4 bits": "bits for nats",
    "1.4 0 log 0 is NaN": "NaN from 0 log 0",
    "1.4 transition.T @ ... the other way round": "stepped backwards",
    "2.1 transposed": "transposed",
    "2.1 diagonal blocked": "diagonal blocked",
    "2.1 ones and zeros exchanged": "polarity inverted",
    "2.2 transposed": "transposed",
    "2.2 floats": "numbers instead of booleans",
    "2.2 True = blocked": "polarity inverted",
    "2.2 diagonal blocked": "diagonal blocked",
    "2.3 indices instead of positions": "corner at the top left",
    "2.3 bottom right triangle": "corner at the bottom right",
    "2.3 strictly earlier": "own position blocked",
    "2.3 axes exchanged": "transposed",
    "2.4 multiplies by infinity": "NaN from 0 times infinity",
    "2.4 blocks the visible": "polarity inverted",
    "2.4 dtype forgotten": "dtype ignored",
    "2.4 lowest finite number": "large number for -inf",
    "2.5 writes into the mask": "input overwritten",
    "2.5 first axis": "first axis instead of the query axis",
    "2.5 a column": "column opened",
    "2.5 rebuilds a causal mask": "mask built anew",
    "2.6 the causal weights again": "causal weights",
    "2.6 scaled again": "scaled twice",
    "2.6 not normalised": "not normalised",
    "2.6 scores divided by their sum": "softmax without exp",
    "2.6 new ones appended to the old": "old sum kept",
    "3.1 no square root": "not scaled",
    "3.1 no mask": "no mask",
    "3.1 divided by d": "scaled by d_k instead of its root",
    "3.1 the chapter's query": "the old query",
    "3.1 itself excluded": "itself blocked",
    "3.1 mask after softmax": "mask after softmax",
    "3.2 no mask": "no mask",
    "3.2 mask after softmax": "mask after softmax",
    "3.2 causal mask of row 4": "no mask",
    "3.2 the score 1000 counts 0": "a zero score as zero weight",
    "3.2 powers not taken": "the large scores shared without exp",
    "3.3 nan_to_num hides NaN": "NaN hidden",
    "3.3 -1e9": "a fill of -1e9 and nothing more",
    "3.3 empty rows are NaN": "empty rows give NaN",
    "3.3 mask after softmax, renormalised": "renormalised, and 0/0 made 0",
    "3.3 empty rows are uniform (finite fill, no zeroing)": "empty rows are uniform",
    "3.3 exp of blocked zeroed, NaN times 0": "blocked scores leave too late",
    "3.4 NaN": "gap too large",
    "3.4 nothing lost": "high score on a visible cell",
    "3.4 equal scores": "visible scores all equal",
    "3.4 out of range": "scores out of range",
    "3.4 the visible score is the large one": "high score on a visible cell",
    "3.5 no scale": "not scaled",
    "3.5 softmax over the queries": "softmax over the wrong axis",
    "3.5 results swapped": "weights and output in the wrong order",
    "3.5 scaled by d_v": "scaled by d_v",
    "3.5 k.T for two axes only": "all axes reversed",
    "3.5 0 as a fill": "blocked scores set to zero",
    "3.5 mask after softmax": "mask after softmax",
    "3.5 exp without the maximum": "no maximum subtracted, masked by a product",
    "4.1 heads by reshape without moving an axis": "split by reshape alone",
    "4.1 merged without moving the axis back": "merge by reshape alone",
    "4.1 scaled by the whole width": "scaled by the root of C",
    "4.1 no mask": "no mask",
    "4.1 w_out forgotten": "output weights forgotten",
    "4.1 w_out transposed, as nn.Linear holds it": "output weights transposed",
    "4.1 one head only": "one head only",
    "4.1 q, k, v in turns within each head": "queries, keys and values inside each head",
    "4.2 padded rows see real tokens": "padded rows read the sentence",
    "4.2 padded rows empty": "padded rows are empty",
    "4.2 sides confused": "sides swapped",
    "4.2 padding on queries only": "padding on the query axis only",
    "4.2 three axes": "three axes",
    "4.3 pieces are documents of their own": "pieces taken as documents",
    "4.3 not causal": "not causal",
    "4.3 ids in order, so >= does it": "ids compared by size",
    "4.3 or instead of and": "rules joined with or",
    "4.3 diagonal blocked": "diagonal blocked",
    "4.4 not inverted": "polarity kept",
    "4.4 heads first": "heads outside, sentences inside",
    "4.4 not flattened": "four axes kept",
    "4.4 inverted in place": "input changed",
    "4.4 float bias": "float mask where bool is asked",
    "4.4 first head for all": "first head for all",
    "4.5 values have d_k": "values as long as keys",
    "4.5 padding on queries": "padding on the query axis",
    "4.5 padding mask full": "padding mask as large as the grid",
    "4.5 heads after tokens": "heads after tokens",
    "4.5 keys not transposed": "keys not transposed",
    "4.5 merged with four axes forgotten": "heads added instead of laid side by side",
    "5.1 the query does not see itself": "token does not see itself",
    "5.1 T x T": "T x T table",
    "5.1 no scale": "no 1/sqrt(d)",
    "5.1 exp overflows": "no maximum subtracted",
    "5.1 scaled by dv": "scale from the values",
    "5.1 the last query asks every time": "the last query in every step",
    "5.2 mask from the top left": "mask from the top left corner",
    "5.2 heads shared in turns": "GQA heads confused",
    "5.2 no mask in the chunk": "no mask at all",
    "5.2 the cache grows to all query heads": "repeated heads kept",
    "5.2 cache after the chunk": "new keys in front of the old ones",
    "5.2 the old cache comes back": "old cache returned",
    "5.2 itself excluded": "diagonal blocked",
    "5.2 the new keys only": "cache ignored",
    "5.3 a list of references": "cache without copy",
    "5.3 keeps what fits, then raises": "half written before the error",
    "5.3 the whole buffer in view": "empty slots shown",
    "5.3 one too few fits (>=)": "full one position too early",
    "5.3 always float64": "buffers of float64",
    "5.4 slots as they lie": "slots as they lie in memory",
    "5.4 keeps window - 1": "ring off by one: one too few",
    "5.4 never forgets, cuts in view": "never forgets",
    "5.4 newest first": "newest first",
    "5.4 slices without copying": "first chunk without copy",
    "5.5 keys only": "K counted but not V",
    "5.5 bits": "bits for bytes",
    "5.5 batch forgotten": "batch forgotten",
    "5.5 KiB": "kibibytes, rounded down",
    "5.5 a float, inexact when large": "a float",
    "5.5 one layer": "layers forgotten",
    "5.6 the whole text again each time": "everything fed again",
    "5.6 with the prompt": "prompt returned too",
    "5.6 feeds the last one too": "last new token fed too",
    "5.6 the last prompt token twice": "last prompt token fed twice",
    "5.6 only the last token of the prompt": "prompt not fed",
    "5.6 appends to the prompt": "prompt changed",
    "6.1 prefix rows see everything": "prefix rows opened to the suffix",
    "6.1 plain causal": "prefix ignored",
    "6.1 batch axis lands on the rows": "longest prefix for all",
    "6.1 prefix one too long": "prefix one too long",
    "6.1 no head axis": "no axis for the heads",
    "6.2 causal table twice": "prefix ignored",
    "6.2 no scale": "no 1/sqrt(d)",
    "6.2 exchanged": "tables in the wrong order",
    "6.2 no mask": "no mask",
    "6.2 prefix rows see all": "prefix rows opened to the suffix",
    "6.3 width one too many": "window off by one: one too wide",
    "6.3 sinks before their time": "sinks opened to the future",
    "6.3 sinks count into the width": "sinks taken from the window",
    "6.3 sinks ignored": "sinks ignored",
    "6.3 two-sided window": "future seen",
    "6.4 one too late": "first answer token not trained",
    "6.4 keep inverted": "prompt kept, answer dropped",
    "6.4 the same prompt length for all": "one prompt length for all",
    "6.4 targets masked with -100": "targets overwritten",
    "6.4 keep of T": "one entry a token, not a target",
    "6.4 everything kept": "all rows kept",
    "6.5 rows compared, no spreading": "stale keys do not spread",
    "6.5 new columns forgotten": "new tokens not looked for",
    "6.5 layer 0 too": "one layer too early",
    "6.5 only added cells count": "seeing less does no harm",
    "7.1 not rescaled": "old sums not rescaled",
    "7.1 NaN for empty rows": "NaN where nothing is visible",
    "7.1 acc not rescaled": "acc not rescaled",
    "7.1 factor the other way round": "factor the wrong way round",
    "7.1 one maximum for all rows": "one maximum for all rows",
    "7.1 normalised in each block": "normalised at every step",
    "7.1 in place": "input overwritten",
    "7.2 diagonal always partial": "diagonal always partial",
    "7.2 floor instead of ceiling": "remainder dropped",
    "7.2 builds the mask": "mask built",
    "7.2 full and empty exchanged": "full and empty swapped",
    "7.2 cells instead of tiles": "cells instead of tiles",
    "7.2 block 1 forgotten": "block = 1 forgotten",
    "7.3 queries at the beginning": "corner at the top left",
    "7.3 all tiles are computed": "future tiles computed",
    "7.3 whole rows of tiles": "a whole row of tiles, future included",
    "7.3 plain attention": "all scores at once",
    "7.3 no scale": "no division by sqrt(d)",
    "7.3 last, smaller tile left out": "remainder dropped",
    "7.4 half of n squared": "half of the whole count",
    "7.4 forward only": "forward pass only",
    "7.4 scores made once": "scores made once",
    "7.4 a multiply-add is one": "multiplications only",
    "7.4 diagonal left out": "own pairs left out",
    "7.4 causal ignored": "mask ignored",
    "7.4 backward only": "backward pass only",
    "7.4 a float": "floating numbers",
    "7.5 starts at key 0": "all blocks visited",
    "7.5 -inf minus -inf": "NaN from a block with nothing visible",
    "7.5 window one too wide": "window one too wide",
    "7.5 plain causal, as in the lesson": "window ignored",
    "7.5 the future is open": "future visible",
    "7.5 no scale": "scores not scaled",
    "7.5 not rescaled": "old sums not rescaled, oldest first",
    "7.5 the diagonal block only": "own block only",
    "7.5 itself excluded": "own key blocked",
}
