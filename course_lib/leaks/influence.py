"""The contract tester: does a model read the future? For chapter 1 and every later chapter.

The contract says: output t depends on inputs 0..t only. `influence` finds out which inputs an
output does depend on, either by changing one input and looking for outputs that change, or by
gradients; `assert_causal` fails with the offending pair of positions.

It works on any deterministic function of a sequence: an `nn.Module` or plain function of word
numbers ([T] or [B, T], integers) or of vectors ([T, C] or [B, T, C], floating; [T] is a series).
The output has the same leading axes: [T, ...] or [B, T, ...].

What a tester can promise: a leak that it reports is there, up to rounding. One that it misses may
exist, because only a few values were tried and what is as small as rounding is not counted; more
trials and other inputs make that less likely, never impossible.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from course_lib.masks import Mask, causal
from course_lib.validate import check_count, is_integer

Function = Callable[[Any], Any]
Method = Literal["perturbation", "gradient"]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


class LeakError(AssertionError):
    """An output depends on an input that it must not see.

    Attributes:
        output: position of the output.
        inputs: the positions of the inputs that change it (together, if more than one).
    """

    def __init__(self, message: str, output: int, inputs: tuple[int, ...]) -> None:
        super().__init__(message)
        self.output, self.inputs = output, inputs


def influence(
    fn: Function,
    x: Any,
    *,
    by: Method = "perturbation",
    trials: int = 4,
    rng: np.random.Generator | None = None,
    vocab_size: int | None = None,
    tolerance: float | None = None,
) -> Bools:
    """Which outputs depend on which inputs.

    Args:
        fn: an `nn.Module` (tested in the mode in which it is) or a function.
        x: its input: integers [T] or [B, T], or floating [T], [T, C] or [B, T, C]; NumPy or torch.
        by: "perturbation" changes one input position at a time, everything else equal.
            "gradient" needs torch; of integers it differentiates the outputs of the embeddings.
            It sees differentiable paths only.
        trials: changes tried at each position (perturbation), or random directions (gradient).
        rng: source of the changes; seeded with 0 if not given.
        vocab_size: integers are replaced by others in 0..vocab_size-1; by default by those that
            occur in `x`.
        tolerance: differences up to `tolerance` times the largest value seen in that output
            channel (or the largest gradient) count as rounding; 64 times the machine epsilon of
            the output if not given. A leak smaller than that is missed.

    Returns:
        Bool, shape [T, T]: row i, column j is True if output i changes when input j does. Of a
        batch: in any of its sequences.

    Raises:
        TypeError: if `x` or the output has a type that cannot be tested.
        ValueError: if shapes do not fit, there is nothing else to put in, `fn` is not
            deterministic, its output is NaN throughout, or its gradients are not finite.
    """
    return _measure(fn, x, by, trials, rng, vocab_size, tolerance)[0]


def influence_strength(
    fn: Function,
    x: Any,
    *,
    by: Method = "perturbation",
    trials: int = 4,
    rng: np.random.Generator | None = None,
    vocab_size: int | None = None,
) -> Floats:
    """How much, not only whether: as `influence`, but in numbers.

    Returns:
        Float64, shape [T, T]: the largest absolute change of output i seen when input j changed,
        or the largest absolute gradient. In units of the output, for comparison within one map.
    """
    return _measure(fn, x, by, trials, rng, vocab_size, None)[1]


def assert_causal(
    fn: Function,
    x: Any,
    *,
    tokens: Sequence[str] | None = None,
    allowed: Mask | Any | None = None,
    by: Method = "perturbation",
    trials: int = 4,
    rng: np.random.Generator | None = None,
    vocab_size: int | None = None,
    tolerance: float | None = None,
) -> None:
    """Fail if an output depends on an input that it must not see.

    An `nn.Module` is tested in evaluation mode and in training mode, because a mask that is
    applied in one of them only is a common bug. By perturbation, all forbidden inputs are also
    changed at once, which finds leaks that need two changes to show.

    Args:
        fn: as for `influence`.
        x: as for `influence`.
        tokens: labels of the T positions, for the message.
        allowed: what output i may depend on: a `Mask`, or bool [T, T]. Causal if not given.
            Influence passes from layer to layer, so for a deep model this is what several steps
            of its mask can reach (for causal and prefix masks, the mask itself).
        by: as for `influence`.
        trials: as for `influence`.
        rng: as for `influence`.
        vocab_size: as for `influence`.
        tolerance: as for `influence`.

    Raises:
        LeakError: an `AssertionError` that names the first leaking pair, output by output:
            "output 1 ('cat') changes when input 2 ('sat') does".
        TypeError: as for `influence`.
        ValueError: as for `influence`; or if `tokens` or `allowed` does not fit.
    """
    length = _Sequence(x).length
    forbidden = ~_allowed(allowed, length)
    names = _names(tokens, length)
    rng = np.random.default_rng(0) if rng is None else rng
    options: dict[str, Any] = {
        "rng": rng, "trials": trials, "vocab_size": vocab_size, "tolerance": tolerance
    }  # fmt: skip
    for mode in _modes(fn):
        with mode as label:
            leaks = influence(fn, x, by=by, **options) & forbidden
            if leaks.any():
                _report(leaks, names, label)
            if by == "perturbation":
                _assert_no_joint_leak(fn, x, forbidden, names, label, **options)


# --- the two methods ---------------------------------------------------------------------------


def _measure(
    fn: Function,
    x: Any,
    by: Method,
    trials: int,
    rng: np.random.Generator | None,
    vocab_size: int | None,
    tolerance: float | None,
) -> tuple[Bools, Floats]:
    """Which pairs influence each other, bool [T, T], and how strongly, float [T, T]."""
    if by not in ("perturbation", "gradient"):
        raise ValueError(f"by: expected 'perturbation' or 'gradient'; got {by!r}")
    check_count("trials", trials, 1)
    if rng is not None and not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng: expected a NumPy Generator; got {type(rng).__name__}")
    if tolerance is not None and not 0 <= tolerance < np.inf:
        raise ValueError(f"tolerance: expected a finite number of at least 0; got {tolerance}")
    rng = np.random.default_rng(0) if rng is None else rng
    sequence = _Sequence(x, vocab_size)
    with _undisturbed(fn):
        method = _by_perturbation if by == "perturbation" else _by_gradient
        return method(fn, sequence, trials, rng, tolerance)


def _by_perturbation(
    fn: Function,
    sequence: "_Sequence",
    trials: int,
    rng: np.random.Generator,
    tolerance: float | None,
) -> tuple[Bools, Floats]:
    """Change one input position at a time and compare all outputs."""
    base, eps = _run(fn, sequence, sequence.values)
    again, _ = _run(fn, sequence, sequence.values)
    if _change(base, again).any():
        raise ValueError("fn: expected the same output for the same input; got two different ones")
    scale = _sizes(base)  # [channels]
    columns = []
    for j in range(sequence.length):
        most = np.zeros((sequence.length, len(scale)))
        for _ in range(trials):
            output, _ = _run(fn, sequence, sequence.changed([j], rng))
            most = np.maximum(most, _change(base, output))
            scale = np.maximum(scale, _sizes(output))
        columns.append(most)
    change = np.stack(columns, axis=1)  # [T outputs, T inputs, channels]
    bound = (64 * eps if tolerance is None else tolerance) * scale
    return np.any(change > bound, axis=-1), change.max(axis=-1, initial=0.0)


def _by_gradient(
    fn: Function,
    sequence: "_Sequence",
    trials: int,
    rng: np.random.Generator,
    tolerance: float | None,
) -> tuple[Bools, Floats]:
    """Differentiate each output position along random directions.

    A random direction and not a plain sum: softmax outputs add up to 1 and normalised ones to 0,
    so the gradient of their sum is 0 whatever they depend on.
    """
    leaves, output = _differentiable(fn, sequence)
    output = sequence.batched(output)  # [B, T, ...]
    strength = np.zeros((sequence.length, sequence.length))
    for i in range(sequence.length):
        row = output[:, i]
        for _ in range(trials):
            direction = torch.from_numpy(rng.normal(size=tuple(row.shape))).to(row)
            gradients = torch.autograd.grad(
                (row * direction).sum(), leaves, retain_graph=True, allow_unused=True
            )
            for gradient in gradients:
                if gradient is None:
                    continue
                size = sequence.batched(gradient).abs()  # [B, T, ...]
                size = size.transpose(0, 1).flatten(1).amax(dim=1)  # [T]
                strength[i] = np.maximum(strength[i], size.double().cpu().numpy())
    if not np.isfinite(strength).all():
        raise ValueError(
            "fn: expected finite gradients; got NaN or infinity, so use by='perturbation'"
        )
    eps = torch.finfo(output.dtype).eps
    bound = (64 * eps if tolerance is None else tolerance) * strength.max()
    return strength > bound, strength


def _differentiable(fn: Function, sequence: "_Sequence") -> tuple[list[Tensor], Tensor]:
    """Leaves that need gradients, and the output computed from them."""
    if not sequence.is_torch and not isinstance(fn, nn.Module):
        raise TypeError("x: expected a torch tensor for gradients; got a NumPy array")
    values = torch.as_tensor(sequence.values)
    found: list[Tensor] = []
    with torch.enable_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        if sequence.is_float:
            found.append(values.detach().clone().requires_grad_())
            output = fn(found[0])
        else:
            with _embeddings_as_leaves(fn, values, found):
                output = fn(values)
    if not found:
        raise TypeError(
            "fn: expected an nn.Module that passes the tokens to an nn.Embedding, to take "
            "gradients of; pass embeddings instead, or use by='perturbation'"
        )
    _check_output(output, sequence)
    if not isinstance(output, Tensor) or not output.requires_grad:
        raise TypeError("fn: expected a torch output that can be differentiated; got another")
    return found, output


@contextmanager
def _embeddings_as_leaves(fn: Function, tokens: Tensor, found: list[Tensor]) -> Iterator[None]:
    """Make every embedding of the tokens a leaf of the graph, so that gradients arrive there."""

    def hook(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        same = inputs[0].shape == tokens.shape and bool((inputs[0] == tokens).all())
        if not same:
            return None
        found.append(output.detach().clone().requires_grad_())
        return found[-1]

    modules = fn.modules() if isinstance(fn, nn.Module) else ()
    handles = [m.register_forward_hook(hook) for m in modules if isinstance(m, nn.Embedding)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _assert_no_joint_leak(
    fn: Function,
    x: Any,
    forbidden: Bools,
    names: list[str],
    label: str,
    *,
    rng: np.random.Generator,
    trials: int,
    vocab_size: int | None,
    tolerance: float | None,
) -> None:
    """Change everything that output i must not see at once; it must stay."""
    sequence = _Sequence(x, vocab_size)
    with _undisturbed(fn):
        base, eps = _run(fn, sequence, sequence.values)
        for i in np.flatnonzero(forbidden.any(axis=1)):
            columns = np.flatnonzero(forbidden[i])
            for _ in range(trials):
                output, _ = _run(fn, sequence, sequence.changed(columns, rng))
                scale = np.maximum(_sizes(base), _sizes(output))
                bound = (64 * eps if tolerance is None else tolerance) * scale
                if (_change(base, output)[i] > bound).any():
                    inputs = ", ".join(names[j] for j in columns)
                    raise LeakError(
                        f"output {names[i]} changes when inputs {inputs} change together{label}",
                        int(i),
                        tuple(int(j) for j in columns),
                    )


# --- inputs and outputs ------------------------------------------------------------------------


class _Sequence:
    """An input with its time axis found, and the ways to change it."""

    def __init__(self, x: Any, vocab_size: int | None = None) -> None:
        if not isinstance(x, (np.ndarray, Tensor)):
            raise TypeError(f"x: expected a NumPy array or a torch tensor; got {type(x).__name__}")
        self.values: Any = x
        self.is_torch = isinstance(x, Tensor)
        self.is_float = x.is_floating_point() if isinstance(x, Tensor) else x.dtype.kind == "f"
        if not (self.is_float or is_integer(x)):
            raise TypeError(f"x: expected integers or floating numbers; got {x.dtype}")
        if x.ndim not in ((1, 2, 3) if self.is_float else (1, 2)):
            wanted = "[T], [T, C] or [B, T, C]" if self.is_float else "[T] or [B, T]"
            raise ValueError(f"x: expected shape {wanted}; got {list(x.shape)}")
        self.has_batch = x.ndim == (3 if self.is_float else 2)
        self.length = x.shape[1 if self.has_batch else 0]
        if self.length == 0:
            raise ValueError(f"x: expected at least one position; got {list(x.shape)}")
        self.vocab_size = vocab_size

    def batched(self, array: Any) -> Any:
        """The array with a batch axis in front."""
        return array if self.has_batch else array[None]

    def changed(self, columns: Any, rng: np.random.Generator) -> Any:
        """A copy of the input with other values at the given positions."""
        copy = self.batched(self._numpy())  # [B, T, ...]
        pick = self._other_numbers if self.is_float else self._other_words
        copy[:, columns] = pick(copy[:, columns], rng)
        copy = copy if self.has_batch else copy[0]
        if self.is_torch:
            return torch.as_tensor(copy, dtype=self.values.dtype, device=self.values.device)
        return copy

    def _numpy(self) -> Any:
        """A NumPy copy of the input (which has no bfloat16, hence the detour)."""
        if not self.is_torch:
            return np.array(self.values)
        values = self.values.detach().cpu()
        return (values.double() if self.is_float else values).numpy().copy()

    def _other_numbers(self, old: Any, rng: np.random.Generator) -> Any:
        """Numbers moved by a normal amount of the size of the input."""
        spread = float(np.std(self._numpy())) or 1.0
        return (old + rng.normal(0.0, spread, size=old.shape)).astype(old.dtype)

    def _other_words(self, old: Any, rng: np.random.Generator) -> Any:
        """Words replaced by different ones."""
        words = np.unique(self._numpy()) if self.vocab_size is None else np.arange(self.vocab_size)
        if len(words) < 2:
            raise ValueError(
                "vocab_size: expected at least 2 words to replace one by another; "
                f"got {len(words)} (give vocab_size if x holds one word only)"
            )
        place = np.searchsorted(words, old)
        return words[(place + rng.integers(1, len(words), size=old.shape)) % len(words)]


def _run(fn: Function, sequence: _Sequence, values: Any) -> tuple[Floats, float]:
    """The output as float64 [B, T, ...], and its machine epsilon.

    Every run starts from the same seed of torch, so that dropout drops the same units.
    """
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        output = fn(values)
    _check_output(output, sequence)
    if isinstance(output, Tensor):
        eps = torch.finfo(output.dtype).eps if output.is_floating_point() else 0.0
        array = output.detach().double().cpu().numpy()
    else:
        eps = float(np.finfo(output.dtype).eps) if output.dtype.kind == "f" else 0.0
        array = output.astype(np.float64)
    if array.size and np.isnan(array).all():
        raise ValueError("fn: expected an output that can be compared; got NaN throughout")
    return np.array(sequence.batched(array)), eps


def _check_output(output: Any, sequence: _Sequence) -> None:
    """Refuse outputs whose time axis is not where the input has it."""
    if not isinstance(output, (np.ndarray, Tensor)):
        raise TypeError(
            f"fn: expected it to return one array or tensor; got {type(output).__name__}"
        )
    lead = tuple(sequence.values.shape[: 2 if sequence.has_batch else 1])
    if tuple(output.shape[: len(lead)]) != lead:
        raise ValueError(
            f"fn: expected an output of shape [{', '.join(map(str, lead))}, ...], one row a "
            f"position; got {list(output.shape)}"
        )
    is_complex = output.is_complex() if isinstance(output, Tensor) else output.dtype.kind == "c"
    if is_complex:
        raise TypeError(f"fn: expected real numbers; got {output.dtype}")


def _change(base: Floats, output: Floats) -> Floats:
    """Largest absolute change of each output, shape [T, channels]; becoming NaN is infinite."""
    both_nan = np.isnan(base) & np.isnan(output)
    with np.errstate(invalid="ignore"):
        difference = np.where((base == output) | both_nan, 0.0, np.abs(output - base))
    difference = np.nan_to_num(difference, nan=np.inf, posinf=np.inf)
    return difference.reshape(*base.shape[:2], -1).max(axis=0, initial=0.0)


def _sizes(values: Floats) -> Floats:
    """Largest finite absolute value of each channel of [B, T, ...], shape [channels]."""
    finite = np.where(np.isfinite(values), np.abs(values), 0.0)
    return finite.reshape(values.shape[0] * values.shape[1], -1).max(axis=0, initial=0.0)


# --- state and messages ------------------------------------------------------------------------


@contextmanager
def _undisturbed(fn: Function) -> Iterator[None]:
    """Leave the buffers of a module as they were (batch norm counts what it sees)."""
    buffers = dict(fn.named_buffers()) if isinstance(fn, nn.Module) else {}
    kept = {name: buffer.clone() for name, buffer in buffers.items()}
    try:
        yield
    finally:
        for name, buffer in buffers.items():
            buffer.copy_(kept[name])


def _modes(fn: Function) -> list[Any]:
    """Contexts in which to test: both modes of a module, or one for a function."""
    if not isinstance(fn, nn.Module):
        return [_mode(None, False)]
    return [_mode(fn, False), _mode(fn, True)]


@contextmanager
def _mode(module: nn.Module | None, training: bool) -> Iterator[str]:
    """Set the mode of a module and give it back afterwards, part by part."""
    if module is None:
        yield ""
        return
    before = [(part, part.training) for part in module.modules()]
    module.train(training)
    try:
        yield f" (in {'training' if training else 'evaluation'} mode)"
    finally:
        for part, was_training in before:
            part.training = was_training


def _allowed(allowed: Mask | Any | None, length: int) -> Bools:
    """What each output may depend on, bool [T, T]."""
    if allowed is None:
        allowed = causal()
    matrix = np.asarray(allowed.matrix(length) if isinstance(allowed, Mask) else allowed)
    if matrix.dtype != bool:
        raise TypeError(f"allowed: expected booleans, True = may depend; got {matrix.dtype}")
    if matrix.shape != (length, length):
        raise ValueError(f"allowed: expected shape [{length}, {length}]; got {list(matrix.shape)}")
    return matrix


def _names(tokens: Sequence[str] | None, length: int) -> list[str]:
    """How to call the positions in a message."""
    if tokens is None:
        return [str(t) for t in range(length)]
    if len(tokens) != length:
        raise ValueError(f"tokens: expected {length} labels; got {len(tokens)}")
    return [f"{t} ({token!r})" for t, token in enumerate(tokens)]


def _report(leaks: Bools, names: list[str], label: str) -> None:
    """Raise for the first pair, and say how many there are."""
    pairs = np.argwhere(leaks)
    i, j = (int(p) for p in pairs[0])
    others = len(pairs) - 1
    more = f"; {others} more pair{'s' if others > 1 else ''} leak{'' if others > 1 else 's'}"
    raise LeakError(
        f"output {names[i]} changes when input {names[j]} does{label}{more if others else ''}",
        i,
        (j,),
    )


# --- the whole battery -------------------------------------------------------------------------
