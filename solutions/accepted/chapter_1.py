"""Right answers to the exercises of chapter 1 in different styles: all get full marks."""

import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F

# --- 1.1 -----------------------------------------------------------------------------------------


def log_prob_loop(logits, tokens):
    total = 0.0
    for t in range(len(tokens) - 1):
        row = [float(s) for s in logits[t]]
        top = max(row)
        total += row[tokens[t + 1]] - top - math.log(sum(math.exp(s - top) for s in row))
    return total


def log_prob_torch(logits, tokens):
    log_p = F.log_softmax(torch.from_numpy(logits[:-1]), dim=-1)
    return log_p.gather(1, torch.from_numpy(tokens[1:])[:, None].long()).sum()


def log_prob_cross_entropy(logits, tokens):
    target = torch.from_numpy(tokens[1:]).long()
    return -F.cross_entropy(torch.from_numpy(logits[:-1]), target, reduction="sum").item()


def log_prob_logaddexp(logits, tokens):
    normaliser = np.logaddexp.reduce(logits, axis=-1)
    picked = np.take_along_axis(logits[:-1], tokens[1:, None], axis=1)[:, 0]
    return np.float64((picked - normaliser[:-1]).sum())


# --- 1.2 -----------------------------------------------------------------------------------------


def shift_copies(tokens):
    length = tokens.shape[-1]
    if isinstance(tokens, torch.Tensor):
        return [tokens.narrow(-1, 0, length - 1).clone(), tokens.narrow(-1, 1, length - 1).clone()]
    return [np.delete(tokens, length - 1, axis=-1), np.delete(tokens, 0, axis=-1)]


def shift_index(tokens):
    last = tokens.shape[-1] - 1
    earlier = list(range(last))
    return tokens[..., earlier], tokens[..., [t + 1 for t in earlier]]


def shift_lists(tokens):
    """Loops over everything; nested arrays of the kind that came in."""
    whole = isinstance(tokens, torch.Tensor)
    array = tokens.numpy() if whole else tokens
    flat = array.reshape(-1, array.shape[-1])
    inputs, targets = [], []
    for text in flat:
        inputs.append([text[t] for t in range(len(text) - 1)])
        targets.append([text[t + 1] for t in range(len(text) - 1)])
    shape = (*array.shape[:-1], array.shape[-1] - 1)
    both = [np.array(part, dtype=array.dtype).reshape(shape) for part in (inputs, targets)]
    return tuple(torch.from_numpy(part) for part in both) if whole else tuple(both)


# --- 1.3 -----------------------------------------------------------------------------------------


def influence_loops(fn, x):
    n, channels = x.shape
    reference = fn(x)
    found = [[False for _ in range(n)] for _ in range(n)]
    for j in range(n):
        for attempt in range(60):
            y = np.array(x)
            y[j] = np.random.default_rng(1000 * j + attempt).standard_normal(channels)
            z = fn(y)
            for i in range(n):
                if (
                    max(abs(float(a) - float(b)) for a, b in zip(z[i], reference[i], strict=True))
                    > 1e-10
                ):
                    found[i][j] = True
    return found


def influence_torch(fn, x):
    torch.manual_seed(0)
    reference = torch.from_numpy(fn(x))
    n = len(x)
    found = torch.zeros(n, n, dtype=torch.bool)
    for j in range(n):
        for _ in range(80):
            y = torch.from_numpy(x).clone()
            y[j] = torch.randn(x.shape[1], dtype=torch.float64)
            found[:, j] |= (torch.from_numpy(fn(y.numpy())) - reference).abs().amax(1) > 1e-8
    return found


def influence_pairs_of_draws(fn, x):
    """Compares fresh draws with each other and never with x itself."""
    rng = np.random.default_rng(5)
    found = np.zeros((len(x), len(x)), dtype=np.bool_)
    for j in range(len(x)):
        outputs = []
        for _ in range(70):
            y = x.copy()
            y[j, :] = rng.standard_normal(x.shape[1])
            outputs.append(fn(y))
        outputs = np.stack(outputs)
        found[:, j] = (np.ptp(outputs, axis=0) > 1e-9).any(axis=-1)
    return found


# --- 1.4 -----------------------------------------------------------------------------------------


def floor_loops(transition, start, length):
    size, total, p = len(start), 0.0, [float(s) for s in start]
    for t in range(length):
        if t == 0:
            total -= sum(a * math.log(a) for a in p if a > 0)
            continue
        for a in range(size):
            for b in range(size):
                if transition[a][b] > 0:
                    total -= p[a] * transition[a][b] * math.log(transition[a][b])
        p = [sum(p[a] * transition[a][b] for a in range(size)) for b in range(size)]
    return total / length


def floor_torch(transition, start, length):
    step, p = torch.tensor(transition), torch.tensor(start)
    each_row = -torch.special.xlogy(step, step).sum(dim=1)
    pieces = [-torch.special.xlogy(p, p).sum()]
    while len(pieces) < length:
        pieces.append(p @ each_row)
        p = p @ step
    return torch.stack(pieces).mean()


def floor_powers(transition, start, length):
    """Where the text is, on average, as a sum of matrix powers."""
    with np.errstate(divide="ignore", invalid="ignore"):
        rows = np.vstack([start[None], transition])
        entropy = np.where(rows > 0, -rows * np.log(rows), 0.0).sum(axis=1)
    visits = sum(
        (start @ np.linalg.matrix_power(transition, t) for t in range(length - 1)),
        start=np.zeros(len(start)),
    )
    return (entropy[0] + visits @ entropy[1:]) / length


def floor_joint(transition, start, length):
    """By the chain rule, from H(joint of two neighbours) - H(one word)."""

    def entropy(p):
        p = p[p > 0]
        return -(p * np.log(p)).sum()

    total, p = entropy(start), start
    for _ in itertools.repeat(None, length - 1):
        joint = p[:, None] * transition
        total += entropy(joint) - entropy(p)
        p = joint.sum(axis=0)
    return np.array(total / length)


ACCEPTED = {
    "1.1": [log_prob_loop, log_prob_torch, log_prob_cross_entropy, log_prob_logaddexp],
    "1.2": [shift_copies, shift_index, shift_lists],
    "1.3": [influence_loops, influence_torch, influence_pairs_of_draws],
    "1.4": [floor_loops, floor_torch, floor_powers, floor_joint],
}
