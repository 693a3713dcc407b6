"""Right answers to the exercises of chapter 2 in different styles: all get full marks."""

import numpy as np
import torch

# --- 2.1 -----------------------------------------------------------------------------------------

AS_BOOLEANS = np.array([[j <= i for j in range(5)] for i in range(5)])
AS_TENSOR = torch.tensor(
    [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
)
AS_TRUE_AND_FALSE = [[True] * (i + 1) + [False] * (4 - i) for i in range(5)]
AS_FLOATS = AS_BOOLEANS.astype(np.float32)

# --- 2.2 -----------------------------------------------------------------------------------------


def mask_loop(n):
    rows = np.zeros((n, n), dtype=bool)
    for i in range(n):
        for j in range(n):
            if j <= i:
                rows[i][j] = True
    return rows


def mask_tril(n):
    return np.tril(np.ones((n, n), dtype=bool))


def mask_triu_torch(n):
    return ~torch.triu(torch.ones(n, n, dtype=torch.bool), diagonal=1)


def mask_cumulative(n):
    return np.logical_or.accumulate(np.eye(n, dtype=bool), axis=0)


# --- 2.3 -----------------------------------------------------------------------------------------


def at_outer(q_pos, k_pos):
    return np.greater_equal.outer(q_pos, k_pos)


def at_loop(q_pos, k_pos):
    grid = np.empty((len(q_pos), len(k_pos)), dtype=np.bool_)
    for row, q in enumerate(q_pos):
        grid[row] = [k <= q for k in k_pos]
    return grid


def at_torch(q_pos, k_pos):
    return torch.from_numpy(q_pos).unsqueeze(1) >= torch.from_numpy(k_pos).unsqueeze(0)


def at_table(q_pos, k_pos):
    """Looks the cells up in a square mask."""
    size = 1 + max([*q_pos.tolist(), *k_pos.tolist()], default=0)
    return np.tri(size, dtype=bool)[np.ix_(q_pos, k_pos)]


# --- 2.4 -----------------------------------------------------------------------------------------


def bias_fill(mask, dtype):
    if isinstance(mask, torch.Tensor):
        bias = torch.full(mask.shape, -torch.inf, dtype=dtype)
    else:
        bias = np.full(mask.shape, -np.inf, dtype=dtype)
    bias[mask] = 0
    return bias


def bias_logarithm(mask, dtype):
    """log 1 is 0 and log 0 is -inf."""
    if isinstance(mask, torch.Tensor):
        return mask.to(dtype).log()
    with np.errstate(divide="ignore"):
        return np.log(mask.astype(dtype))


def bias_cells(mask, dtype):
    flat = [0.0 if cell else float("-inf") for cell in mask.reshape(-1).tolist()]
    if isinstance(mask, torch.Tensor):
        return torch.tensor(flat, dtype=dtype).reshape(mask.shape)
    return np.array(flat, dtype=dtype).reshape(mask.shape)


def bias_where(mask, dtype):
    if isinstance(mask, torch.Tensor):
        return torch.where(mask, 0.0, -torch.inf).to(dtype)
    return np.where(mask, dtype(0) if isinstance(dtype, type) else np.asarray(0, dtype), -np.inf).astype(dtype)  # fmt: skip


# --- 2.5 -----------------------------------------------------------------------------------------


def open_or(mask, row):
    return mask | (np.arange(mask.shape[-2]) == row)[:, None]


def open_where(mask, row):
    this = np.zeros(mask.shape, dtype=bool)
    this[..., row, :] = True
    return np.where(this, True, mask)


def open_torch(mask, row):
    opened = torch.tensor(mask)
    opened.select(-2, row).fill_(True)
    return opened


def open_loop(mask, row):
    """Row by row, whatever stands in front."""
    flat = mask.reshape(-1, *mask.shape[-2:])
    result = [
        [[True] * len(line) if i == row else line.tolist() for i, line in enumerate(one)]
        for one in flat
    ]
    return np.array(result).reshape(mask.shape)


# --- 2.6 -----------------------------------------------------------------------------------------

BY_TORCH = torch.softmax(torch.tensor([0.5, 1.0, 1.0, 0.5, 0.75]), dim=0)
ROUNDED_TO_FOUR = np.round(BY_TORCH.double().numpy(), 4).tolist()
ROUNDED_TO_THREE = [round(w, 3) for w in BY_TORCH.tolist()]

ACCEPTED = {
    "2.1": [AS_BOOLEANS, AS_TENSOR, AS_TRUE_AND_FALSE, AS_FLOATS],
    "2.2": [mask_loop, mask_tril, mask_triu_torch, mask_cumulative],
    "2.3": [at_outer, at_loop, at_torch, at_table],
    "2.4": [bias_fill, bias_logarithm, bias_cells, bias_where],
    "2.5": [open_or, open_where, open_torch, open_loop],
    "2.6": [BY_TORCH, ROUNDED_TO_THREE, ROUNDED_TO_FOUR],
}
