"""Training a language model on fresh texts, and measuring it on held-out ones (chapter 1 on).

Every batch is drawn anew, so there is nothing to memorise: training and held-out loss estimate
the same quantity, and the gap to the entropy of the language is the model's own.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from course_lib.gpt import evaluating
from course_lib.lesson import progress

#: draw(n, rng) -> n fresh texts, word numbers, int64 array of shape [n, T + 1].
Draw = Callable[[int, np.random.Generator], NDArray[np.int64]]


def shift(tokens: Any) -> tuple[Any, Any]:
    """Inputs and targets of next-word prediction: the same text, one word apart.

    Args:
        tokens: word numbers, shape [..., T + 1], T > 0; NumPy or torch.

    Returns:
        Inputs (words 0..T-1) and targets (words 1..T), each [..., T]: at position t the model
        has read words 0..t and is asked for word t + 1.

    Raises:
        TypeError: if tokens are no array.
        ValueError: if there are fewer than two words.
    """
    if not isinstance(tokens, (np.ndarray, Tensor)):
        raise TypeError(f"tokens: expected an array or a tensor; got {type(tokens).__name__}")
    if tokens.ndim == 0 or tokens.shape[-1] < 2:
        raise ValueError(f"tokens: expected at least 2 words a text; got {list(tokens.shape)}")
    return tokens[..., :-1], tokens[..., 1:]


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of every prediction: -log p(target), in nats.

    Args:
        logits: shape [..., V].
        targets: word numbers, int64, shape [...].

    Returns:
        Shape [...].
    """
    log_p = torch.log_softmax(logits, dim=-1)
    return -log_p.gather(-1, targets[..., None]).squeeze(-1)


def next_word_loss(model: nn.Module, tokens: Tensor) -> Tensor:
    """Mean cross-entropy of predicting each next word, teacher forced; nats a word.

    Args:
        model: maps [B, T] word numbers to [B, T, V] logits.
        tokens: texts, shape [B, T + 1].

    Returns:
        A scalar.
    """
    inputs, targets = shift(tokens)
    return token_losses(model(inputs), targets).mean()


@dataclass
class History:
    """What happened during training.

    Attributes:
        losses: loss of each step's fresh batch before its update, nats a word.
    """

    losses: list[float] = field(default_factory=list)

    def smoothed(self, window: int = 20) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Means over blocks of steps, for a curve.

        Args:
            window: steps a block; an unfilled last block is left out.

        Returns:
            Number of steps at the end of each block, and the mean loss in it.
        """
        if not 1 <= window <= len(self.losses):
            raise ValueError(f"window: expected 1..{len(self.losses)}; got {window}")
        blocks = len(self.losses) // window
        means = np.reshape(self.losses[: blocks * window], (blocks, window)).mean(axis=1)
        return window * np.arange(1.0, blocks + 1), means


@dataclass(frozen=True)
class HeldOut:
    """Losses on texts that were never trained on.

    Attributes:
        tokens: the texts, shape [n, T + 1].
        losses: cross-entropy of each predicted word, nats, shape [n, T].
    """

    tokens: NDArray[np.int64]
    losses: NDArray[np.float64]

    @property
    def mean(self) -> float:
        """Mean loss, nats a word."""
        return float(self.losses.mean())

    @property
    def standard_error(self) -> float:
        """Standard error of `mean`.

        Words of one text depend on each other and texts do not, so the text is the unit.
        """
        return standard_error(self.losses.mean(axis=1))

    @property
    def by_position(self) -> NDArray[np.float64]:
        """Mean loss of each predicted position, shape [T]: entry t is about word t + 1."""
        return self.losses.mean(axis=0)


def standard_error(values: Any) -> float:
    """Standard error of the mean of independent values, shape [n], n > 1."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"values: expected shape [n], n > 1; got {list(values.shape)}")
    return float(values.std(ddof=1) / len(values) ** 0.5)


def train(
    model: nn.Module,
    draw: Draw,
    *,
    steps: int,
    batch_size: int,
    rng: np.random.Generator,
    learning_rate: float = 3e-3,
    loss: Callable[[nn.Module, Tensor], Tensor] = next_word_loss,
    description: str = "training",
) -> History:
    """Train with AdamW on a fresh batch a step.

    The learning rate warms up for 20 steps, then falls to 0; the gradient is clipped to norm 1.
    Source: I. Loshchilov and F. Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.

    Args:
        model: changed in place; left in the mode in which it was.
        draw: source of texts.
        steps: number of updates, at least 1.
        batch_size: texts a step, at least 1.
        rng: source of randomness of the batches.
        learning_rate: its peak.
        loss: loss(model, tokens [B, T + 1]) -> scalar.
        description: text of the progress bar.

    Returns:
        The history.

    Raises:
        ValueError: if `steps` or `batch_size` is below 1.
        FloatingPointError: if the loss stops being a finite number.
    """
    if steps < 1 or batch_size < 1:
        raise ValueError(f"steps and batch_size: expected at least 1; got {steps} and {batch_size}")
    optimiser = _adamw(model, learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, steps))
    device = next(model.parameters(), torch.empty(0)).device
    history = History()
    was_training = model.training
    model.train()
    try:
        for step in progress(range(steps), description):
            value = loss(model, torch.as_tensor(draw(batch_size, rng), device=device))
            if not torch.isfinite(value):
                raise FloatingPointError(f"loss: expected a finite number; step {step}: {value}")
            optimiser.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            history.losses.append(value.item())
    finally:
        model.train(was_training)
    return history


def evaluate(
    model: nn.Module,
    draw: Draw,
    *,
    n: int,
    rng: np.random.Generator,
    batch_size: int = 256,
) -> HeldOut:
    """Teacher-forced loss on `n` fresh texts, in evaluation mode.

    Args:
        model: maps [B, T] word numbers to [B, T, V] logits.
        draw: source of texts.
        n: number of texts, at least 2.
        rng: source of randomness; not the one that training used.
        batch_size: texts at a time.

    Returns:
        Texts and losses.
    """
    if n < 2:
        raise ValueError(f"n: expected at least 2; got {n}")
    device = next(model.parameters(), torch.empty(0)).device
    tokens = draw(n, rng)
    losses = []
    with evaluating(model):
        for first in range(0, n, batch_size):
            inputs, targets = shift(
                torch.as_tensor(tokens[first : first + batch_size], device=device)
            )
            losses.append(token_losses(model(inputs), targets).double().cpu().numpy())
    return HeldOut(tokens, np.concatenate(losses))


def _adamw(model: nn.Module, learning_rate: float) -> torch.optim.AdamW:
    """AdamW that decays matrices and embeddings, and leaves biases and norms alone."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.01},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95))


def _rate(step: int, steps: int, warmup: int = 20) -> float:
    """Share of the peak learning rate at a step: a linear warm-up, then a cosine."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return 0.5 * (1.0 + float(np.cos(np.pi * min(1.0, done))))
