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
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from course_lib.attention import attention
from course_lib.gpt import GPT
from course_lib.leaks.influence import LeakError, assert_causal
from course_lib.masks import Mask, causal
from course_lib.validate import check_count

Verdict = Literal["pass", "FAIL", "n/a"]
#: (tokens [B, T]) -> outputs [B, T, ...].
Forward = Callable[[Tensor], Tensor]
#: (tokens [B, T], valid bool [B, T], True = real) -> outputs [B, T, ...].
Padded = Callable[[Tensor, Tensor], Tensor]
#: (new tokens [B, t], state or None, valid bool [B, all slots so far] or None) ->
#: (outputs [B, t, ...], the state for the next chunk).
Step = Callable[[Tensor, Any, Tensor | None], tuple[Tensor, Any]]
#: (q, k, v [B, H, T, D], mask bool [B, 1, T, T], True = may attend) -> outputs [B, H, T, D].
Attend = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

_PADDING = 3  # slots put in front of a text
_ROUGH = 0.25  # of the largest output: what half precision may cost


@dataclass(frozen=True)
class Subject:
    """What the battery needs to know of a model; only `forward` is a must.

    Attributes:
        forward: tokens [B, T] to outputs [B, T, ...].
        module: the `nn.Module` inside, for the tests that change its mode or dtype.
        padded: the same with padding, told by `valid` [B, T] (True = real token).
        step: some more tokens, with the cache that earlier calls returned.
        vocab_size: number of words.
        rebuild: the subject of another module of the same kind (a copy in half precision).
    """

    forward: Forward
    module: nn.Module | None = None
    padded: Padded | None = None
    step: Step | None = None
    vocab_size: int | None = None
    rebuild: Callable[[Any], "Subject"] | None = None


@dataclass(frozen=True)
class Finding:
    """The outcome of one test: its name, the verdict, and a few words about why."""

    name: str
    verdict: Verdict
    why: str


@dataclass(frozen=True)
class Report:
    """The outcome of a battery; prints as one line a test.

    Attributes:
        findings: in the order of the tests.
    """

    findings: tuple[Finding, ...]

    @property
    def failed(self) -> list[str]:
        """Names of the tests that failed."""
        return [f.name for f in self.findings if f.verdict == "FAIL"]

    @property
    def ok(self) -> bool:
        """Whether nothing failed, and at least one test could be run."""
        return not self.failed and any(f.verdict == "pass" for f in self.findings)

    def verdict(self, name: str) -> Verdict:
        """The verdict of one test.

        Raises:
            ValueError: if there is no test of that name.
        """
        for finding in self.findings:
            if finding.name == name:
                return finding.verdict
        known = ", ".join(f.name for f in self.findings)
        raise ValueError(f"name: expected one of {known}; got {name!r}")

    def __str__(self) -> str:
        width = max(len(f.name) for f in self.findings)
        return "\n".join(f"{f.verdict:<4}  {f.name:<{width}}  {f.why}" for f in self.findings)

    __repr__ = __str__


class _FoundError(Exception):
    """A test has found something; its message is the line of the report."""


class _SkippedError(Exception):
    """A test cannot be run; its message says why."""


def audit(
    model_or_fn: Any,
    x: Tensor | None = None,
    *,
    vocab_size: int | None = None,
    padded: Padded | None = None,
    step: Step | None = None,
    allowed: Mask | Any | None = None,
    rng: np.random.Generator | None = None,
    length: int = 10,
    tolerance: float = 1e-5,
) -> Report:
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
        The `Report`. A test in which the model raises an error has failed.

    Raises:
        TypeError: if `model_or_fn` cannot be called.
        ValueError: if there is nothing to feed, or `length` or `tolerance` is out of range.
    """
    subject = _subject(model_or_fn)
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
    return _run(tests)


def audit_attention(
    attend: Attend, *, length: int = 6, rng: np.random.Generator | None = None
) -> Report:
    """Run the battery on a function of queries, keys, values and a mask.

    Args:
        attend: (q, k, v [B, H, T, D], mask bool [B, 1, T, T], True = may attend) to [B, H, T, D].
        length: T, at least 3.
        rng: source of the numbers; seeded with 0 if not given.

    Returns:
        The `Report`.

    Raises:
        ValueError: if `length` is below 3.
    """
    check_count("length", length, 3)
    rng = np.random.default_rng(0) if rng is None else rng
    q, k, v = (torch.from_numpy(rng.normal(size=(2, 2, length, 8))) for _ in range(3))
    return _run(
        {
            "blocked keys": lambda: _blocked_keys(attend, q, k, v, rng),
            "the reference": lambda: _reference(attend, q, k, v),
            "rows that see nothing": lambda: _nothing_to_see(attend, q, k, v, rng),
            "dtype limits": lambda: _attention_dtypes(attend, q, k, v),
        }
    )


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


# --- adapters ----------------------------------------------------------------------------------


def hugging_face(model: Any, *, positions: bool = True) -> Subject:
    """A Hugging Face causal language model as a `Subject`.

    Args:
        model: takes `input_ids`, `attention_mask`, `past_key_values`, returns `.logits`.
        positions: derive `position_ids` from the padding, as its `generate` does. Without them
            a model with learned positions counts padding as words.

    Returns:
        The subject.
    """
    takes_positions = positions and "position_ids" in inspect.signature(model.forward).parameters

    def options(valid: Tensor | None, n: int) -> dict[str, Tensor]:
        if valid is None:
            return {}
        chosen = {"attention_mask": valid.long()}
        if takes_positions:
            logical = (valid.long().cumsum(-1) - 1).clamp(min=0)
            chosen["position_ids"] = logical[:, -n:]
        return chosen

    def padded(tokens: Tensor, valid: Tensor) -> Tensor:
        return model(input_ids=tokens, use_cache=False, **options(valid, tokens.shape[1])).logits

    def step(tokens: Tensor, state: Any, valid: Tensor | None) -> tuple[Tensor, Any]:
        output = model(
            input_ids=tokens,
            past_key_values=state,
            use_cache=True,
            **options(valid, tokens.shape[1]),
        )
        return output.logits, output.past_key_values

    return Subject(
        forward=lambda tokens: model(input_ids=tokens, use_cache=False).logits,
        module=model,
        padded=padded,
        step=step,
        vocab_size=model.config.vocab_size,
        rebuild=lambda other: hugging_face(other, positions=positions),
    )


def _course_gpt(model: GPT) -> Subject:
    """The course's own model."""

    def step(tokens: Tensor, state: Any, valid: Tensor | None) -> tuple[Tensor, Any]:
        cache = model.new_cache("concat") if state is None else state
        padding = None if valid is None else (~valid).sum(dim=1)
        return model(tokens, cache=cache, padding=padding), cache

    return Subject(
        forward=model,
        module=model,
        padded=lambda tokens, valid: model(tokens, padding=(~valid).sum(dim=1)),
        step=step,
        vocab_size=model.config.vocab_size,
        rebuild=_course_gpt,
    )


def _subject(given: Any) -> Subject:
    """The adapter that fits."""
    if isinstance(given, Subject):
        return given
    if isinstance(given, GPT):
        return _course_gpt(given)
    if isinstance(given, nn.Module):
        if "past_key_values" in inspect.signature(given.forward).parameters:
            return hugging_face(given)
        return Subject(given, module=given, rebuild=lambda other: Subject(other, module=other))
    if callable(given):
        return Subject(given)
    raise TypeError(f"model_or_fn: expected a model or a function; got {type(given).__name__}")


class _Outputs(nn.Module):
    """A subject as a module, so that the contract tester can change its mode."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self.inner, self._forward = subject.module, subject.forward

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(x)


# --- the battery for models --------------------------------------------------------------------


@dataclass(frozen=True)
class _Battery:
    """The tests of `audit`; each returns a few words, or raises."""

    subject: Subject
    x: Tensor
    allowed: Mask | Any | None
    rng: np.random.Generator
    tolerance: float

    def future_influence(self) -> str:
        fn = self.subject.forward if self.subject.module is None else _Outputs(self.subject)
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
            raise _FoundError(str(leak)) from None
        modes = "" if self.subject.module is None else ", evaluation and training mode"
        return f"{self.x.shape[1]} positions{modes}"

    def train_eval_agreement(self) -> str:
        module = self._module()
        if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in module.modules()):
            raise _SkippedError("batch norm differs between the modes on purpose")
        with _without_dropout(module), torch.random.fork_rng():
            with _mode(module, True):
                torch.manual_seed(0)
                training = self._call(self.subject.forward, self.x)
                torch.manual_seed(1)
                again = self._call(self.subject.forward, self.x)
            if not torch.equal(training, again):
                raise _SkippedError("training mode is random even with its dropout set to 0")
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
            _finite(output.detach(), "outputs")
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
            raise _SkippedError("no `rebuild`, so no copy in half precision")
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
                raise _FoundError(f"{_short(dtype)}: {_first_line(error)}") from None
            _finite(rough, f"{_short(dtype)} outputs")
            self._same(exact, rough.to(exact), f"in {_short(dtype)}", _ROUGH)
            tried.append(_short(dtype))
        if not tried:
            raise _SkippedError("this processor computes neither float16 nor bfloat16")
        return " and ".join(tried)

    # --- parts -------------------------------------------------------------------------------

    def _in_chunks(self, splits: Sequence[Sequence[int]], how: str) -> str:
        step = self._step()
        n = self.x.shape[1]
        if self.allowed is not None and _looks_ahead(self.allowed, n):
            raise _SkippedError("its mask looks ahead, so chunks may give other outputs")
        with self._evaluating():
            whole = self._call(self.subject.forward, self.x)
            for chunks in splits:
                pieces = self._feed(step, self.x, chunks, None)
                self._same(whole, pieces, how.format(" + ".join(map(str, chunks))))
        return f"{len(splits)} splits" if len(splits) > 1 else how

    def _feed(self, step: Step, x: Tensor, chunks: Sequence[int], valid: Tensor | None) -> Tensor:
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
                    _finite(gradient, "gradients")

    def _same(self, a: Tensor, b: Tensor, how: str, tolerance: float | None = None) -> None:
        _finite(a, "outputs")
        _finite(b, f"outputs {how}")
        size, moved = a.abs().max().item(), (a - b).abs().max().item()
        if moved > (self.tolerance if tolerance is None else tolerance) * size:
            raise _FoundError(f"outputs move by {moved:.4f} {how} (the largest is {size:.4f})")

    @staticmethod
    def _call(fn: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        with torch.no_grad():
            return fn(*inputs)

    def _module(self) -> nn.Module:
        if self.subject.module is None:
            raise _SkippedError("a function has no mode and no dtype to change")
        return self.subject.module

    def _padded(self) -> Padded:
        if self.subject.padded is None:
            raise _SkippedError("no way to say what is padding (give `padded`)")
        return self.subject.padded

    def _step(self) -> Step:
        if self.subject.step is None:
            raise _SkippedError("no cache (give `step`)")
        return self.subject.step

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        with _mode(self.subject.module, False):
            yield


# --- the battery for attention functions -------------------------------------------------------


def _blocked_keys(attend: Attend, q: Tensor, k: Tensor, v: Tensor, rng: np.random.Generator) -> str:
    """Row t may not change when keys and values after t do."""
    n = q.shape[2]
    mask = _square(causal(), q)
    before = attend(q, k, v, mask)
    for t in range(n - 1):
        keys, values = k.clone(), v.clone()
        for x in (keys, values):
            noise = rng.normal(0.0, 3.0, size=tuple(x[:, :, t + 1 :].shape))
            x[:, :, t + 1 :] += torch.from_numpy(noise)
        moved = (attend(q, keys, values, mask) - before)[:, :, : t + 1].abs().amax().item()
        if not moved <= 1e-9:
            raise _FoundError(f"row {t} moves by {moved:.4f} when later keys and values do")
    return f"{n} rows, causal mask"


def _reference(attend: Attend, q: Tensor, k: Tensor, v: Tensor) -> str:
    """The five steps of chapter 3, in double precision."""
    mask = _square(causal(), q)
    exact, _ = attention(q, k, v, mask)
    error = (attend(q, k, v, mask) - exact).abs().max().item()
    if not error <= 1e-6:
        raise _FoundError(f"off by {error:.4f} from softmax after masking")
    return "equal to softmax after masking"


def _nothing_to_see(
    attend: Attend, q: Tensor, k: Tensor, v: Tensor, rng: np.random.Generator
) -> str:
    """A row that may attend to nothing: finite, no blocked values in it, no NaN backward."""
    mask = _square(causal(), q).clone()
    mask[1, :, 0] = False  # the first row of the second text
    leaves = queries, keys, values = [x.clone().requires_grad_() for x in (q, k, v)]
    output = attend(queries, keys, values, mask)
    _finite(output.detach(), "outputs")
    other = v + torch.from_numpy(rng.normal(size=tuple(v.shape)))
    moved = (attend(q, k, other, mask) - output.detach())[1, :, 0].abs().max().item()
    if moved > 1e-9:
        raise _FoundError(f"its output moves by {moved:.4f} with values that it may not see")
    output.square().sum().backward()
    for leaf in leaves:
        if leaf.grad is not None:
            _finite(leaf.grad, "gradients")
    return "output and gradients are finite and free of blocked values"


def _attention_dtypes(attend: Attend, q: Tensor, k: Tensor, v: Tensor) -> str:
    """Three precisions, small and very negative scores."""
    mask, values = _square(causal(), q), v
    ramp = torch.ones_like(k)
    hard = [(q, k, ""), (-ramp * 90, ramp * 90, " and scores near -20000")]
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for queries, keys, what in hard:
            q, k, v = (x.to(dtype) for x in (queries, keys, values))
            exact, _ = attention(q.double(), k.double(), v.double(), mask)
            where = f"{_short(dtype)}{what}"
            try:
                output = attend(q, k, v, mask).double()
            except RuntimeError as failure:
                raise _FoundError(f"{where}: {_first_line(failure)}") from None
            _finite(output, f"outputs in {where}")
            error = (output - exact).abs().max().item()
            if error > 0.05 * exact.abs().max().item():
                raise _FoundError(f"off by {error:.4f} in {where}")
    return "float32, float16 and bfloat16, with scores down to -20000"


def _square(rule: Mask, q: Tensor) -> Tensor:
    return rule.tensor(q.shape[2]).expand(len(q), 1, -1, -1)


# --- shared ------------------------------------------------------------------------------------


def _run(tests: dict[str, Callable[[], str]]) -> Report:
    """Each test's words, or what it raised."""
    findings = []
    for name, test in tests.items():
        try:
            finding = Finding(name, "pass", test())
        except _SkippedError as reason:
            finding = Finding(name, "n/a", str(reason))
        except _FoundError as failure:
            finding = Finding(name, "FAIL", str(failure))
        except Exception as error:  # the model's own: it is what the reader wants to know
            finding = Finding(name, "FAIL", f"raises {type(error).__name__}: {_first_line(error)}")
        findings.append(finding)
    return Report(tuple(findings))


def _texts(subject: Subject, length: int, rng: np.random.Generator) -> Tensor:
    """Two random texts on the device of the model."""
    check_count("length", length, 6)
    if subject.vocab_size is None:
        raise ValueError("vocab_size: needed to make up texts if x is not given; got None")
    device = next((p.device for p in subject.module.parameters()), None) if subject.module else None
    return torch.from_numpy(rng.integers(subject.vocab_size, size=(2, length))).to(device)


def _finite(values: Tensor, what: str) -> None:
    """Fail if a number is NaN or infinite."""
    bad = ~torch.isfinite(values)
    if bool(bad.any()):
        kind = "NaN" if bool(torch.isnan(values).any()) else "infinite"
        raise _FoundError(f"{int(bad.sum())} of {values.numel()} {what} are {kind}")


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


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _first_line(error: BaseException, most: int = 80) -> str:
    line = (str(error).splitlines() or [""])[0]
    return line if len(line) <= most else line[: most - 3] + "..."
