"""Right answers to the exercises of chapter 6 in other styles than ours.

Hidden and visible checks must give all of them full marks.
"""

from itertools import pairwise
from typing import Any

import numpy as np
import torch

Array = Any


# --- 6.1 -----------------------------------------------------------------------------------------


def _by_slices(n: int, p: Any) -> Array:
    if np.ndim(p):
        return np.stack([_by_slices(n, int(one))[None] for one in p])
    mask = np.tril(np.ones((n, n), dtype=bool))
    mask[:, :p] = True
    return mask


def _by_loops(n: int, p: Any) -> Any:
    def one(length: int) -> list[list[bool]]:
        return [[j < length or j <= i for j in range(n)] for i in range(n)]

    return one(int(p)) if np.ndim(p) == 0 else [[one(int(length))] for length in p]


def _in_torch(n: int, p: Any) -> Array:
    p = torch.as_tensor(p)
    k_pos = torch.arange(n)
    causal = torch.ones(n, n, dtype=torch.bool).tril()
    return causal | (k_pos < p[..., None, None, None].expand(*p.shape, 1, 1, 1)) if p.ndim else (
        causal | (k_pos < p)
    )  # fmt: skip


def _by_complement(n: int, p: Any) -> Array:
    p = np.asarray(p)
    i, j = np.indices((n, n))
    if p.ndim:
        p = p.reshape(-1, 1, 1, 1)
    return ~((j > i) & (j >= p))


# --- 6.2 -----------------------------------------------------------------------------------------

_Q = torch.tensor(
    [[1, 0, 1, 0], [0, 2, 0, 1], [1, 1, 1, 0], [0, 0, 1, 1], [1, 0, 0, 1]], dtype=torch.float32
)
_K = torch.tensor([[0, 1, 0, 1], [1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 0.5, 0.5]])


def _tables() -> Array:
    tables = []
    for p in (2, 3):
        hidden = torch.ones(5, 5, dtype=torch.bool).triu(1)
        hidden[:, :p] = False
        tables.append(torch.softmax((_Q @ _K.T / 2).masked_fill(hidden, -torch.inf), dim=-1))
    return torch.stack(tables)


_SUFFIX = [
    [0.2327, 0.3837, 0.3837, 0, 0],
    [0.2350, 0.2350, 0.1425, 0.3875, 0],
    [0.1892, 0.1892, 0.1892, 0.1892, 0.2430],
]
_BY_HAND = [
    [[0.2689, 0.7311, 0, 0, 0], [0.8176, 0.1824, 0, 0, 0], *_SUFFIX],
    [[0.1863, 0.5065, 0.3072, 0, 0], [0.5466, 0.1220, 0.3315, 0, 0], *_SUFFIX],
]


# --- 6.3 -----------------------------------------------------------------------------------------


def _window_in_loops(n: int, width: int, sinks: int = 0) -> Array:
    mask = np.zeros((n, n), dtype=bool)
    for i in range(n):
        for j in range(i + 1):
            mask[i, j] = i - j < width or j < sinks
    return mask


def _window_in_bands(n: int, width: int, sinks: int = 0) -> Array:
    lower = np.tri(n, dtype=bool)
    return lower & ~np.tri(n, k=-width, dtype=bool) | lower & (np.arange(n) < sinks)


def _window_in_torch(n: int, width: int, sinks: int = 0) -> Array:
    q, k = torch.arange(n)[:, None], torch.arange(n)[None, :]
    oldest = torch.clamp(q - width + 1, min=0)
    return ((k >= oldest) | (k < sinks)) & (k <= q)


# --- 6.4 -----------------------------------------------------------------------------------------


def _in_loops(tokens: Array, p: Array) -> Any:
    inputs, targets, keep = [], [], []
    for text, prompt in zip(tokens.tolist(), p.tolist(), strict=True):
        inputs.append([a for a, _ in pairwise(text)])
        targets.append([b for _, b in pairwise(text)])
        keep.append([position >= prompt for position in range(1, len(text))])
    return inputs, targets, keep


def _targets_in_torch(tokens: Array, p: Array) -> Any:
    tokens, p = torch.as_tensor(tokens), torch.as_tensor(p)
    answer = torch.arange(tokens.shape[1])[None, :] >= p[:, None]  # [B, T], by token
    return tokens[:, :-1], tokens[:, 1:], answer[:, 1:]


def _from_the_first_row(tokens: Array, p: Array) -> Any:
    keep = np.zeros((tokens.shape[0], tokens.shape[1] - 1), dtype=bool)
    for b in range(len(tokens)):
        keep[b, max(p[b] - 1, 0) :] = True
    return [tokens[:, :-1].copy(), np.roll(tokens, -1, axis=1)[:, :-1], keep]


# --- 6.5 -----------------------------------------------------------------------------------------


def _recursive(old_mask: Array, new_mask: Array, layers: int) -> Array:
    n, m = len(old_mask), len(new_mask)

    def right(layer: int, j: int) -> bool:
        if layer == 0:
            return True
        before = [bool(j_sees) for j_sees in old_mask[j]] + [False] * (m - n)
        if before != [bool(x) for x in new_mask[j]]:
            return False
        return all(right(layer - 1, i) for i in range(n) if old_mask[j, i] and i != j)

    return np.array([[right(layer, j) for j in range(n)] for layer in range(layers)])


def _with_products(old_mask: Array, new_mask: Array, layers: int) -> Array:
    old, new = torch.as_tensor(old_mask), torch.as_tensor(new_mask)
    n = old.shape[0]
    padded = torch.nn.functional.pad(old, (0, new.shape[1] - n))
    stale = (padded != new[:n]).any(dim=1).float()
    rows, now = [torch.zeros(n)], torch.zeros(n)
    for _ in range(layers - 1):
        now = ((stale + old.float() @ now) > 0).float()
        rows.append(now)
    return torch.stack(rows) == 0


def _by_simulation(old_mask: Array, new_mask: Array, layers: int) -> Array:
    """Run a random model under both masks and compare its keys."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(len(new_mask), 6))
    n = len(old_mask)
    old, new, right = x[:n], x, []
    for _ in range(layers):
        right.append(np.abs(new[:n] - old).max(axis=1) < 1e-12)
        w = rng.normal(size=(3, 6, 6)) / 2

        def attend(x: Array, mask: Array, w: Array = w) -> Array:
            q, k, v = x @ w
            s = np.where(mask, q @ k.T / 6, -np.inf)
            e = np.exp(s - s.max(axis=1, keepdims=True))
            return e / e.sum(axis=1, keepdims=True) @ v

        old, new = attend(old, old_mask), attend(new, new_mask)
    return np.array(right)


ACCEPTED: dict[str, list[object]] = {
    "6.1": [_by_slices, _by_loops, _in_torch, _by_complement],
    "6.2": [_tables(), _BY_HAND, tuple(x.numpy() for x in _tables())],
    "6.3": [_window_in_loops, _window_in_bands, _window_in_torch],
    "6.4": [_in_loops, _targets_in_torch, _from_the_first_row],
    "6.5": [_recursive, _with_products, _by_simulation],
}
