"""What a caller of `course_lib.generation` can get wrong, answered before any word is fed."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from course_lib.cache import Cache
from course_lib.decoder import Decoder
from course_lib.decoder_checks import check_chunk
from course_lib.masks import Mask


def as_prompt(prompt: Any, model: nn.Module) -> Tensor:
    """The prompt as an int64 tensor of shape [T] or [B, T], where the model is.

    Raises:
        TypeError: if it is not of integers.
        ValueError: if it is empty, or texts differ in length.
    """
    device = next(model.parameters(), torch.empty(0)).device
    try:
        tokens = torch.as_tensor(prompt, device=device)
    except ValueError as error:  # torch speaks of sequences and dims
        raise ValueError(f"prompt: texts of different lengths need left_pad; {error}") from None
    if tokens.ndim not in (1, 2) or tokens.numel() == 0:
        raise ValueError(
            "prompt: expected shape [T] or [B, T] with B, T > 0 (a model needs a first word to "
            f"continue); got {list(tokens.shape)}"
        )
    if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
        raise TypeError(f"prompt: expected integers; got {tokens.dtype}")
    return tokens.long()


def check_model(model: nn.Module, cache: Any, padding: Any) -> None:
    """Refuse caches and padding for a model that has no use for them.

    Raises:
        TypeError: if it has none.
    """
    if not isinstance(model, Decoder) and not (cache is None and padding is None):
        raise TypeError(
            "model: expected a Decoder, such as a GPT, to use a cache or padding; got "
            f"{type(model).__name__}"
        )


def check_length(model: nn.Module, length: int, n: int, cache: Sequence[Cache] = ()) -> None:
    """Refuse a text that does not fit into the context, the cache, or the data of the mask.

    Args:
        model: in evaluation mode.
        length: words of the prompt, those in the cache included.
        n: new words. The last one is never fed back, so length + n - 1 positions are needed.
        cache: one cache a layer, if there is any yet.

    Raises:
        ValueError: if it does not fit.
    """
    limits = {"the model's context": getattr(getattr(model, "config", None), "context", None)}
    if isinstance(model, Decoder) and model.rule is not None:
        limits["the length of the rule's data"] = model.rule.length
    rooms = [layer.length + layer.room for layer in cache if layer.room is not None]
    limits["the cache's capacity"] = min(rooms, default=None)
    known = {what: limit for what, limit in limits.items() if limit is not None}
    what = min(known, key=known.__getitem__, default=None)
    if what is not None and n > 0 and length + n - 1 > known[what]:
        raise ValueError(
            f"n: expected at most {max(0, known[what] + 1 - length)} new words after a prompt of "
            f"{length} ({what} is {known[what]}); got {n}"
        )


def check_vocabulary(text: Tensor, size: int) -> None:
    """Refuse word numbers outside 0..size-1.

    Raises:
        ValueError: if there are some.
    """
    if bool(((text < 0) | (text >= size)).any()):
        raise ValueError(
            f"prompt: expected word numbers in 0..{size - 1}; got {int(text.min())}.."
            f"{int(text.max())}"
        )


def check_real_words(padding: Tensor | None, length: int) -> None:
    """Refuse padding that leaves a text of `length` slots no word.

    Raises:
        ValueError: if it does.
    """
    if padding is not None and int(padding.max()) >= length:
        raise ValueError(
            f"padding: expected at least one real word in each text of {length} slots; got "
            f"{padding.tolist()}"
        )


def check_chunks(rule: Mask | None, cache: Sequence[Cache], sizes: Sequence[int]) -> None:
    """Refuse, before the first chunk is fed, a text of which a later one would be refused.

    Args:
        rule: the mask in force.
        cache: one cache a layer.
        sizes: how many words will be fed at a time.

    Raises:
        ValueError: as `check_chunk`.
    """
    seen = cache[0].length
    for size in sizes:
        held = getattr(cache[0], "slots", seen)  # a ring drops what is before these
        if rule is not None:
            check_chunk(rule, seen, size, max(0, seen - held))
        seen += size
