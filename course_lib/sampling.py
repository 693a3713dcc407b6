"""How the next word is drawn from a model's logits (chapter 1)."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NO_RNG = "rng: expected a NumPy Generator when temperature > 0; got None"


@dataclass(frozen=True)
class Sampling:
    """How to draw a word from logits.

    Attributes:
        temperature: logits are divided by it; 0 takes the likeliest word each time.
        top_k: draw among the k likeliest words only.
        top_p: draw among the fewest likeliest words that together have at least this
            probability; in (0, 1].

    Raises:
        TypeError: if `top_k` is not an integer.
        ValueError: if a field is out of range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        """Refuse what makes no distribution."""
        if not self.temperature >= 0:
            raise ValueError(f"temperature: expected at least 0; got {self.temperature}")
        if self.top_k is not None:
            if not isinstance(self.top_k, (int, np.integer)) or isinstance(self.top_k, bool):
                raise TypeError(f"top_k: expected an integer; got {self.top_k!r}")
            if self.top_k < 1:
                raise ValueError(f"top_k: expected at least 1; got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: expected a number in (0, 1]; got {self.top_p}")


def probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """The distribution that words are drawn from, in float64.

    First the temperature, then top-k (A. Fan et al., 2018, arXiv:1805.04833; words that tie with
    the k-th stay), then top-p (A. Holtzman et al., "The Curious Case of Neural Text
    Degeneration", 2020, arXiv:1904.09751) of what is left.

    Args:
        logits: shape [B, V].
        sampling: with a temperature above 0.

    Returns:
        Shape [B, V]; each row sums to 1.

    Raises:
        ValueError: if the logits, divided by the temperature, make no distribution.
    """
    p = torch.softmax(logits.double() / sampling.temperature, dim=-1)
    if bool(p.isnan().any()):
        raise ValueError(
            "logits: expected numbers that make a distribution; got NaN or infinity, or a "
            f"temperature too small to divide by ({sampling.temperature:g})"
        )
    if sampling.top_k is not None and sampling.top_k < p.shape[-1]:
        least = p.topk(sampling.top_k, dim=-1).values[:, -1:]  # [B, 1]
        p = p.where(p >= least, 0.0)
        p = p / p.sum(dim=-1, keepdim=True)
    if sampling.top_p is not None and sampling.top_p < 1:
        largest, order = p.sort(dim=-1, descending=True, stable=True)
        before = largest.cumsum(dim=-1) - largest  # probability of the words that are likelier
        keep = torch.zeros_like(p, dtype=torch.bool).scatter(-1, order, before < sampling.top_p)
        p = p.where(keep, 0.0)
        p = p / p.sum(dim=-1, keepdim=True)
    return p


def choose(logits: Tensor, sampling: Sampling, rng: np.random.Generator | None = None) -> Tensor:
    """Draw one word from each row of logits.

    Args:
        logits: shape [B, V].
        sampling: how.
        rng: one uniform number a row is drawn from it; not used if the temperature is 0.

    Returns:
        Word numbers, int64, shape [B].

    Raises:
        ValueError: if `rng` is missing, or the logits make no distribution.
    """
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    if rng is None:
        raise ValueError(NO_RNG)
    # Inverse transform sampling in float64, so that a seed gives the same text on all machines.
    p = probabilities(logits, sampling).cpu().numpy()
    draws = rng.random((len(p), 1))
    words: NDArray[np.int64] = (np.cumsum(p, axis=-1)[:, :-1] <= draws).sum(axis=-1)
    # The sum may round to less than the draw, and the last words be filtered ones.
    possible = p.shape[-1] - 1 - (p[:, ::-1] > 0).argmax(axis=-1)
    return torch.from_numpy(np.minimum(words, possible)).to(logits.device)
