"""Right answers to the exercises of chapter 4 in several styles; all get full marks (teachers)."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

# --- 4.1 ------------------------------------------------------------------------------------------


def layer_loops(x, w_qkv, w_out, n_heads):
    """Sentence by sentence, head by head, query by query; the future is never touched."""
    batch, length, width = x.shape
    d = width // n_heads
    result = np.zeros((batch, length, width))
    for b in range(batch):
        q, k, v = (x[b] @ w_qkv[:, i * width : (i + 1) * width] for i in range(3))
        for i in range(length):
            row = []
            for h in range(n_heads):
                own = slice(h * d, (h + 1) * d)
                scores = k[: i + 1, own] @ q[i, own] / math.sqrt(d)
                powers = np.exp(scores - scores.max())
                row.append(powers / powers.sum() @ v[: i + 1, own])
            result[b, i] = np.concatenate(row) @ w_out
    return result


def layer_torch(x, w_qkv, w_out, n_heads):
    x, w_qkv, w_out = (torch.tensor(a) for a in (x, w_qkv, w_out))
    B, T, C = x.shape
    q, k, v = (x @ w_qkv).split(C, dim=2)
    q, k, v = (t.view(B, T, n_heads, C // n_heads).transpose(1, 2) for t in (q, k, v))
    s = (q @ k.transpose(-2, -1)) / math.sqrt(k.size(-1))
    s = s.masked_fill(torch.tril(torch.ones(T, T)) == 0, float("-inf"))
    y = F.softmax(s, dim=-1) @ v
    return y.transpose(1, 2).contiguous().view(B, T, C) @ w_out


def layer_built_in(x, w_qkv, w_out, n_heads):
    x, w_qkv, w_out = (torch.from_numpy(a.copy()) for a in (x, w_qkv, w_out))
    q, k, v = (t.unflatten(-1, (n_heads, -1)).movedim(-2, -3) for t in (x @ w_qkv).chunk(3, -1))
    return (
        F.scaled_dot_product_attention(q, k, v, is_causal=True).movedim(-3, -2).flatten(-2) @ w_out
    )


def layer_module(x, w_qkv, w_out, n_heads):
    """nn.MultiheadAttention, which stores its weights transposed and its masks inverted."""
    x = torch.tensor(x)
    module = nn.MultiheadAttention(x.shape[-1], n_heads, bias=False, batch_first=True).to(x.dtype)
    module.in_proj_weight.data = torch.tensor(w_qkv.T.copy())
    module.out_proj.weight.data = torch.tensor(w_out.T.copy())
    blocked = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
    with torch.no_grad():
        return module(x, x, x, attn_mask=blocked, need_weights=False)[0]


def layer_einsum(x, w_qkv, w_out, n_heads):
    """No reshape of activations at all: the weights are cut instead. Float64 throughout."""
    width = x.shape[-1]
    wq, wk, wv = (w.reshape(width, n_heads, -1) for w in np.split(w_qkv.astype(np.float64), 3, 1))
    q, k, v = (np.einsum("btc,chd->bhtd", x, w) for w in (wq, wk, wv))
    s = np.einsum("bhid,bhjd->bhij", q, k) / np.sqrt(q.shape[-1])
    s += np.triu(np.full(s.shape[-2:], -np.inf), 1)
    p = np.exp(s - s.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    return np.einsum("bhij,bhjd,hdc->bic", p, v, w_out.reshape(n_heads, -1, width))


def layer_finite_fill(x, w_qkv, w_out, n_heads):
    """The lowest number of the dtype as a fill: legal, no row is empty."""
    parts = np.array_split(x @ w_qkv, 3, axis=-1)
    heads = [np.array_split(part, n_heads, axis=-1) for part in parts]
    out = []
    for q, k, v in zip(*heads, strict=True):
        s = q @ k.mT / q.shape[-1] ** 0.5
        s = np.where(np.tri(x.shape[1]) > 0, s, np.finfo(x.dtype).min)
        with np.errstate(over="ignore"):
            p = np.exp(s - s.max(axis=-1, keepdims=True))
        out.append(p / p.sum(axis=-1, keepdims=True) @ v)
    return np.concatenate(out, axis=-1) @ w_out


# --- 4.2 ------------------------------------------------------------------------------------------


def padding_loops(lengths, total, side):
    mask = np.zeros((len(lengths), 1, total, total), dtype=bool)
    for b, length in enumerate(lengths):
        first = total - length if side == "left" else 0
        for i in range(total):
            mask[b, 0, i, i] = True
            if first <= i < first + length:
                mask[b, 0, i, first : i + 1] = True
    return mask


def padding_torch(lengths, total, side):
    lengths = torch.from_numpy(lengths.copy())[:, None]
    slot = torch.arange(total)
    real = slot < lengths
    if side == "left":
        real = real.flip(1)
    both = real.unsqueeze(1) & real.unsqueeze(2)
    mask = both.tril() | torch.eye(total, dtype=torch.bool)
    return mask.unsqueeze(1)


def padding_blocks(lengths, total, side):
    """The triangle of each sentence, put in its place on an identity."""
    masks = []
    for n in lengths.tolist():
        one = np.eye(total, dtype=bool)
        where = slice(total - n, total) if side == "left" else slice(n)
        one[where, where] = np.tril(np.ones((n, n), dtype=bool))
        masks.append(one[None])
    return np.stack(masks)


def padding_as_documents(lengths, total, side):
    """Words are one document, and each padded slot is one of its own."""
    slot = np.arange(total)
    real = slot >= total - lengths[:, None] if side == "left" else slot < lengths[:, None]
    ids = np.where(real, -1, slot)
    same = ids[:, :, None] == ids[:, None, :]
    return np.tril(same)[:, None]


# --- 4.3 ------------------------------------------------------------------------------------------


def documents_loops(ids):
    n = len(ids)
    return np.array([[bool(ids[i] == ids[j] and j <= i) for j in range(n)] for i in range(n)])


def documents_torch(ids):
    ids = torch.as_tensor(ids)
    return torch.eq(ids.unsqueeze(1), ids.unsqueeze(0)).tril()


def documents_by_name(ids):
    mask = np.zeros((len(ids), len(ids)), dtype=bool)
    for one in set(ids.tolist()):
        slots = np.flatnonzero(ids == one)
        mask[np.ix_(slots, slots)] = np.tri(len(slots), dtype=bool)
    return mask


def documents_growing(ids):
    rows, seen = [], {}
    for slot, one in enumerate(ids.tolist()):
        row = seen.setdefault(one, np.zeros(len(ids), dtype=np.bool_))
        row[slot] = True
        rows.append(row.copy())
    return rows


# --- 4.4 ------------------------------------------------------------------------------------------


def module_loops(mask):
    if mask.ndim == 2:
        return np.logical_not(mask)
    return np.stack([~head for sentence in mask for head in sentence])


def module_torch(mask):
    blocked = torch.logical_not(torch.tensor(mask))
    return blocked.flatten(0, 1) if blocked.dim() == 4 else blocked


def module_comparison(mask):
    blocked = mask == False  # noqa: E712
    while blocked.ndim > 2 + (mask.ndim == 4):
        blocked = np.concatenate(list(blocked))
    return blocked


def module_repeat(mask):
    if mask.ndim == 4:
        batch, heads = mask.shape[:2]
        sentence = np.repeat(np.arange(batch), heads)
        head = np.tile(np.arange(heads), batch)
        mask = mask[sentence, head]
    return np.invert(mask)


_SHAPES = {
    "q": (2, 3, 7, 4),
    "k_transposed": (2, 3, 4, 7),
    "scores": (2, 3, 7, 7),
    "causal_mask": (1, 1, 7, 7),
    "padding_mask": (2, 1, 1, 7),
    "weights": (2, 3, 7, 7),
    "output": (2, 3, 7, 5),
    "merged": (2, 7, 15),
}

ACCEPTED: dict[str, list[object]] = {
    "4.1": [
        layer_loops,
        layer_torch,
        layer_built_in,
        layer_module,
        layer_einsum,
        layer_finite_fill,
    ],
    "4.2": [padding_loops, padding_torch, padding_blocks, padding_as_documents],
    "4.3": [documents_loops, documents_torch, documents_by_name, documents_growing],
    "4.4": [module_loops, module_torch, module_comparison, module_repeat],
    "4.5": [
        dict(_SHAPES),
        {name: list(shape) for name, shape in reversed(_SHAPES.items())},
        {name: torch.zeros(shape).shape for name, shape in _SHAPES.items()},
    ],
}
