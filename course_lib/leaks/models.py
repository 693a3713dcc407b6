"""How each kind of model is called by the battery: whole, padded, in chunks with a cache."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from course_lib.gpt import GPT

#: (tokens [B, T]) -> outputs [B, T, ...].
Forward = Callable[[Tensor], Tensor]
#: (tokens [B, T], valid bool [B, T], True = real) -> outputs [B, T, ...].
Padded = Callable[[Tensor, Tensor], Tensor]
#: (new tokens [B, t], state or None, valid bool [B, all slots so far] or None) ->
#: (outputs [B, t, ...], the state for the next chunk).
CachedForward = Callable[[Tensor, Any, Tensor | None], tuple[Tensor, Any]]


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
    step: CachedForward | None = None
    vocab_size: int | None = None
    rebuild: Callable[[Any], "Subject"] | None = None


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


def subject_of(given: Any) -> Subject:
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


class SubjectModule(nn.Module):
    """A subject as a module, so that the contract tester can change its mode."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self.inner, self._forward = subject.module, subject.forward

    def forward(self, x: Tensor) -> Tensor:
        """As the subject's own."""
        return self._forward(x)
