"""Functions of ours that an answer may call, by name (`script.Callback`; exercises 1.3 and 5.6).

A factory takes plain parameters and returns a function of plain arrays. `run_script` counts the
calls; in the sandbox the function runs in the trusted process, so nothing here may hold what an
answer should find out for itself.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def pairs(length: int, rules: Sequence[Sequence[Any]]) -> Callable[[Any], np.ndarray]:
    """A function of a sequence whose influences are known (exercise 1.3).

    Args:
        length: positions T that go in and come out.
        rules: (output, input, kind) for each pair; the kinds are those of `_effect`.

    Returns:
        A function, float64 [T, C] -> [T, 2].
    """

    def function(x: Any) -> np.ndarray:
        x = np.asarray(x, dtype=np.float64)
        if x.ndim != 2 or len(x) != length:
            raise ValueError(f"x: expected shape [{length}, C]; got {list(x.shape)}")
        y = np.full((length, 2), 3.0)
        for output, read, kind in rules:
            y[output] += _effect(kind, x[read])
        return y

    return function


def _effect(kind: str, row: np.ndarray) -> tuple[float, float]:
    """What a position adds to the two numbers of an output that depends on it."""
    first, last = float(row[0]), float(row[-1])
    match kind:
        case "linear":
            return float(row.sum()), 0.0
        case "second":  # shows in the second number of the output only
            return 0.0, first
        case "last":  # reads the last number of the position only
            return last, 0.0
        case "weak":
            return 5e-6 * first, 0.0
        case "switch":
            return float(first > 0.4), 0.0
        case "saturating":
            return float(np.tanh(200 * first)), 0.0
        case "square":
            return first**2, 0.0
        case "difference":  # the same number added to all of the position does not show
            return first - last, 0.0
        case "opposite":  # the sum of the output's numbers does not move
            return first, -first
        case "rounding":  # no influence at all
            return 64 * ((first + 0.1) - first - 0.1), 0.0
    raise ValueError(f"kind: expected one of the rules; got {kind!r}")


def step(seed: int, vocab: int) -> Callable[[Any], np.ndarray]:
    """A model with a cache of its own (exercise 5.6).

    Its logits depend on all tokens that it was ever fed, and on their order, so a token that is
    fed twice or left out changes everything after it. No two logits are equal.

    Args:
        seed: another model for each.
        vocab: number of tokens V, at most 5000.

    Returns:
        A function, int [T] -> float64 [V]: the logits after the last token fed.
    """
    state = 7919 * seed + 12345

    def feed(tokens: Any) -> np.ndarray:
        nonlocal state
        new = np.asarray(tokens)
        if new.ndim != 1 or len(new) == 0 or new.dtype.kind not in "iu":
            raise ValueError(f"step: expected a list of at least one token number; got {tokens!r}")
        if new.min() < 0 or new.max() >= vocab:
            raise ValueError(f"step: expected token numbers in 0..{vocab - 1}; got {tokens!r}")
        for token in new.tolist():
            state = (48271 * state + 7919 * token + 31) % 2147483647
        first = 1 + state % 10006  # not a multiple of the prime 10007, so all products differ
        return (first * np.arange(1, vocab + 1) % 10007) / 1000 - 20

    return feed


#: Name of a kind -> factory(**params) -> function.
REGISTER: dict[str, Callable[..., Callable[..., Any]]] = {
    "pairs": pairs,
    "step": step,
}
