"""A battery of tests for masks, to point at your own model (appendix A, the museum of mask bugs).

    from course_lib.leaks import audit

    print(audit(model))            # our GPT, a Hugging Face causal model, or any nn.Module
    print(audit(fn, vocab_size=50))  # a function: tokens [B, T] -> logits [B, T, V]

Each test compares a model with itself, so no reference is needed: an output may not change when
the future does, when a text is fed in pieces, when padding is put in front, or when the mode
changes. `audit_attention` does the like for a function of queries, keys, values and a mask, and
`rewarded_offset` for a loss. What could not be tested is said, with the reason.

A model passes up to `tolerance`, and only on the texts that were tried. With weights as small as
those of a fresh model (deviation 0.02) attention is nearly uniform and some errors show faintly:
test a trained model, or one with larger weights.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from course_lib.leaks.influence import LeakError, assert_causal
from course_lib.leaks.models import CachedForward, Padded, Subject, SubjectModule, subject_of
from course_lib.leaks.report import (
    AuditReport,
    FoundError,
    SkippedError,
    check_finite,
    first_line,
    run_tests,
    short_name,
)
from course_lib.masks import Mask
from course_lib.validate import check_count

_PADDING = 3  # slots put in front of a text
_ROUGH = 0.25  # of the largest output: what half precision may cost


def audit(
    model_or_fn: Any,
    x: Tensor | None = None,
    *,
    vocab_size: int | None = None,
    padded: Padded | None = None,
    step: CachedForward | None = None,
    allowed: Mask | Any | None = None,
    rng: np.random.Generator | None = None,
    length: int = 10,
    tolerance: float = 1e-5,
) -> AuditReport:
    """Run the battery on a model.

    Args:
        model_or_fn: a `course_lib.gpt.GPT`, a Hugging Face causal language model, another
            `nn.Module`, a function of tokens [B, T], or a `Subject`. The first two bring their
            own `padded` and `step`.
        x: what to feed: integers [B, T] or floating [B, T, C]; two random texts if not given.
        vocab_size: number of words; needed for a function if `x` is not given.
        padded: see `Subject`.
        step: see `Subject`.
        allowed: what output i may depend on, as for `leaks.assert_causal`; causal if not given.
        rng: source of the texts and of the changes; seeded with 0 if not given.
        length: length of the random texts, at least 6.
        tolerance: differences up to this fraction of the largest output count as rounding. A
            model in half precision needs more; better audit a copy of it in float32.

    Returns:
        The `AuditReport`. A test in which the model raises an error has failed.

    Raises:
        TypeError: if `model_or_fn` cannot be called.
        ValueError: if there is nothing to feed, or `length` or `tolerance` is out of range.
    """
    subject = subject_of(model_or_fn)
    given: dict[str, Any] = {"vocab_size": vocab_size, "padded": padded, "step": step}
    subject = replace(subject, **{name: v for name, v in given.items() if v is not None})
    rng = np.random.default_rng(0) if rng is None else rng
    if not tolerance > 0:
        raise ValueError(f"tolerance: expected a positive number; got {tolerance}")
    x = _texts(subject, length, rng) if x is None else x
    if x.shape[1] < 6:
        raise ValueError(f"x: expected at least 6 positions; got {x.shape[1]}")
    battery = _Battery(subject, x, allowed, rng, tolerance)
    tests = {
        "future influence": battery.future_influence,
        "train/eval agreement": battery.train_eval_agreement,
        "cache against full": battery.cache_against_full,
        "chunk split": battery.chunk_split,
        "left padding": battery.left_padding,
        "left padding, cached": battery.left_padding_cached,
        "rows that see nothing": battery.empty_rows,
        "dtype limits": battery.dtype_limits,
    }
    return run_tests(tests)


def rewarded_offset(loss: Callable[[Tensor, Tensor], Tensor | float], length: int = 9) -> int:
    """Which word a language model's loss asks for, counted from the input word.

    Feeds logits that are sure of the word itself, of the next one, of the one after that, and
    looks which of them the loss likes best.

    Args:
        loss: (logits [1, T, V], tokens [1, T]) to a number.
        length: T, at least 6.

    Returns:
        1 for a right loss (the next word), 0 if the labels were never shifted (copy the input),
        2 if they were shifted twice.

    Raises:
        ValueError: if `length` is below 6, or the loss likes none of the offsets 0 to 3.
    """
    check_count("length", length, 6)
    tokens = torch.arange(length)[None]  # all different, so that no two offsets agree
    losses = []
    for offset in range(4):
        sure = (tokens[0] + offset).clamp(max=length - 1)
        logits = 30.0 * torch.nn.functional.one_hot(sure, length)[None].double()
        losses.append(float(loss(logits, tokens)))
    best = int(np.argmin(losses))
    if not losses[best] < 1e-3:
        raise ValueError(
            f"loss: expected one of the offsets 0 to 3 to cost nothing; the best, {best}, costs "
            f"{losses[best]:.4f}"
        )
    return best


# --- the tests -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Battery:
    """The tests of `audit`; each returns a few words, or raises."""

    subject: Subject
    x: Tensor
    allowed: Mask | Any | None
    rng: np.random.Generator
    tolerance: float

    def future_influence(self) -> str:
        fn = self.subject.forward if self.subject.module is None else SubjectModule(self.subject)
        try:
            assert_causal(
                fn,
                self.x,
                allowed=self.allowed,
                rng=self.rng,
                vocab_size=None if self.x.is_floating_point() else self.subject.vocab_size,
                tolerance=self.tolerance,
            )
        except LeakError as leak:
            raise FoundError(str(leak)) from None
        modes = "" if self.subject.module is None else ", evaluation and training mode"
        return f"{self.x.shape[1]} positions{modes}"

    def train_eval_agreement(self) -> str:
        module = self._module()
        if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in module.modules()):
            raise SkippedError("batch norm differs between the modes on purpose")
        with _without_dropout(module), torch.random.fork_rng():
            with _mode(module, True):
                torch.manual_seed(0)
                training = self._call(self.subject.forward, self.x)
                torch.manual_seed(1)
                again = self._call(self.subject.forward, self.x)
            if not torch.equal(training, again):
                raise SkippedError("training mode is random even with its dropout set to 0")
            with _mode(module, False):
                evaluation = self._call(self.subject.forward, self.x)
        self._same(training, evaluation, "from training mode to evaluation mode")
        return "same outputs in both modes, dropout set to 0"

    def cache_against_full(self) -> str:
        return self._in_chunks([[1] * self.x.shape[1]], "fed one position at a time")

    def chunk_split(self) -> str:
        n = self.x.shape[1]
        splits = [[n // 2, n - n // 2], [1, n - 1], [n - 1, 1], [2, 3, n - 5]]
        return self._in_chunks([s for s in splits if min(s) > 0], "fed in chunks of {}")

    def left_padding(self) -> str:
        padded, (x, valid) = self._padded(), self._with_padding()
        with self._evaluating():
            alone = self._call(self.subject.forward, self.x)
            together = self._call(padded, x, valid)[:, _PADDING:]
        self._same(alone, together, f"with {_PADDING} slots of padding in front")
        return f"{_PADDING} slots in front"

    def left_padding_cached(self) -> str:
        self._padded()
        step, (x, valid) = self._step(), self._with_padding()
        cut = _PADDING + 3
        chunks = [cut, *[1] * (x.shape[1] - cut)]
        with self._evaluating():
            alone = self._call(self.subject.forward, self.x)
            together = self._feed(step, x, chunks, valid)[:, _PADDING:]
        self._same(alone, together, f"with {_PADDING} slots of padding in front and a cache")
        return f"{_PADDING} slots in front, then one position at a time"

    def empty_rows(self) -> str:
        padded, (x, valid) = self._padded(), self._with_padding()
        valid = valid.clone()
        valid[-1] = False  # a whole text of padding, as the last batch of a data set may hold
        with self._evaluating(), torch.enable_grad():
            output = padded(x, valid)
            check_finite(output.detach(), "outputs")
            with torch.no_grad():
                self._same(
                    self._call(padded, *self._with_padding())[:-1, _PADDING:],
                    output.detach()[:-1, _PADDING:],
                    "when a neighbour in the batch is all padding",
                )
            self._check_gradients(output[:-1, _PADDING:])
        return "outputs and gradients are finite"

    def dtype_limits(self) -> str:
        module, rebuild = self._module(), self.subject.rebuild
        if rebuild is None:
            raise SkippedError("no `rebuild`, so no copy in half precision")
        with self._evaluating():
            exact = self._with_or_without_padding(self.subject, self.x)
        tried = []
        for dtype in (torch.float16, torch.bfloat16):
            other = rebuild(copy.deepcopy(module).to(dtype).eval())
            x = self.x.to(dtype) if self.x.is_floating_point() else self.x
            try:
                with torch.no_grad():
                    rough = self._with_or_without_padding(other, x)
            except (NotImplementedError, RuntimeError) as error:
                if "not implemented" in str(error):
                    continue
                raise FoundError(f"{short_name(dtype)}: {first_line(error)}") from None
            check_finite(rough, f"{short_name(dtype)} outputs")
            self._same(exact, rough.to(exact), f"in {short_name(dtype)}", _ROUGH)
            tried.append(short_name(dtype))
        if not tried:
            raise SkippedError("this processor computes neither float16 nor bfloat16")
        return " and ".join(tried)

    # --- parts -------------------------------------------------------------------------------

    def _in_chunks(self, splits: Sequence[Sequence[int]], how: str) -> str:
        step = self._step()
        n = self.x.shape[1]
        if self.allowed is not None and _looks_ahead(self.allowed, n):
            raise SkippedError("its mask looks ahead, so chunks may give other outputs")
        with self._evaluating():
            whole = self._call(self.subject.forward, self.x)
            for chunks in splits:
                pieces = self._feed(step, self.x, chunks, None)
                self._same(whole, pieces, how.format(" + ".join(map(str, chunks))))
        return f"{len(splits)} splits" if len(splits) > 1 else how

    def _feed(
        self, step: CachedForward, x: Tensor, chunks: Sequence[int], valid: Tensor | None
    ) -> Tensor:
        state, outputs, end = None, [], 0
        for n in chunks:
            start, end = end, end + n
            seen = None if valid is None else valid[:, :end]
            with torch.no_grad():
                output, state = step(x[:, start:end], state, seen)
            outputs.append(output)
        return torch.cat(outputs, dim=1)

    def _with_padding(self) -> tuple[Tensor, Tensor]:
        """The texts with other words in front of them, and which slots are real."""
        front = self.x[:, :_PADDING].roll(1, dims=1)
        valid = torch.ones(len(self.x), _PADDING + self.x.shape[1], dtype=torch.bool)
        valid[:, :_PADDING] = False
        return torch.cat([front, self.x], dim=1), valid.to(self.x.device)

    def _with_or_without_padding(self, subject: Subject, x: Tensor) -> Tensor:
        if subject.padded is None:
            return self._call(subject.forward, x)
        _, valid = self._with_padding()
        padded = torch.cat([x[:, :_PADDING].roll(1, dims=1), x], dim=1)
        return self._call(subject.padded, padded, valid)[:, _PADDING:]

    def _check_gradients(self, output: Tensor) -> None:
        module = self.subject.module
        weights = [] if module is None else [p for p in module.parameters() if p.requires_grad]
        if weights and output.requires_grad:
            gradients = torch.autograd.grad(output.square().mean(), weights, allow_unused=True)
            for gradient in gradients:
                if gradient is not None:
                    check_finite(gradient, "gradients")

    def _same(self, a: Tensor, b: Tensor, how: str, tolerance: float | None = None) -> None:
        check_finite(a, "outputs")
        check_finite(b, f"outputs {how}")
        size, moved = a.abs().max().item(), (a - b).abs().max().item()
        if moved > (self.tolerance if tolerance is None else tolerance) * size:
            raise FoundError(f"outputs move by {moved:.4f} {how} (the largest is {size:.4f})")

    @staticmethod
    def _call(fn: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        with torch.no_grad():
            return fn(*inputs)

    def _module(self) -> nn.Module:
        if self.subject.module is None:
            raise SkippedError("a function has no mode and no dtype to change")
        return self.subject.module

    def _padded(self) -> Padded:
        if self.subject.padded is None:
            raise SkippedError("no way to say what is padding (give `padded`)")
        return self.subject.padded

    def _step(self) -> CachedForward:
        if self.subject.step is None:
            raise SkippedError("no cache (give `step`)")
        return self.subject.step

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        with _mode(self.subject.module, False):
            yield


def _texts(subject: Subject, length: int, rng: np.random.Generator) -> Tensor:
    """Two random texts on the device of the model."""
    check_count("length", length, 6)
    if subject.vocab_size is None:
        raise ValueError("vocab_size: needed to make up texts if x is not given; got None")
    device = next((p.device for p in subject.module.parameters()), None) if subject.module else None
    return torch.from_numpy(rng.integers(subject.vocab_size, size=(2, length))).to(device)


def _looks_ahead(allowed: Mask | Any, n: int) -> bool:
    matrix = np.asarray(allowed.matrix(n) if isinstance(allowed, Mask) else allowed)
    return bool(np.triu(matrix, 1).any())


@contextmanager
def _mode(module: nn.Module | None, training: bool) -> Iterator[None]:
    """Set the mode of a module, and give every part its own back."""
    parts = [] if module is None else [(part, part.training) for part in module.modules()]
    try:
        if module is not None:
            module.train(training)
        yield
    finally:
        for part, was_training in parts:
            part.training = was_training


@contextmanager
def _without_dropout(module: nn.Module) -> Iterator[None]:
    """Set every dropout rate to 0: those of dropout layers, and plain numbers named so."""
    changed: list[tuple[nn.Module, str, float]] = []
    for part in module.modules():
        is_layer = isinstance(part, nn.modules.dropout._DropoutNd)
        for name, value in vars(part).items():
            named = "drop" in name.lower() or (is_layer and name == "p")
            if named and isinstance(value, float) and 0 < value < 1:
                changed.append((part, name, value))
    try:
        for part, name, _ in changed:
            setattr(part, name, 0.0)
        yield
    finally:
        for part, name, value in changed:
            setattr(part, name, value)
