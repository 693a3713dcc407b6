"""What a caller of a decoder can get wrong, answered at the door, before anything is computed."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from course_lib.cache import Cache
from course_lib.masks import Mask


def check_tokens(tokens: Tensor, device: torch.device, rule: Mask | None) -> None:
    """Refuse word numbers that no model can read, or that the rule has no data for.

    Raises:
        TypeError: if they are not integers.
        ValueError: if their shape, device or number of sequences is wrong.
    """
    if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
        raise TypeError(f"tokens: expected integers; got {tokens.dtype}")
    if tokens.ndim != 2 or tokens.shape[1] == 0:
        raise ValueError(f"tokens: expected shape [B, T], T > 0; got {list(tokens.shape)}")
    if tokens.device != device:
        raise ValueError(f"tokens: expected the device of the model, {device}; got {tokens.device}")
    if rule is not None and rule.batch not in (None, 1, len(tokens)):
        raise ValueError(
            f"tokens: expected {rule.batch} sequences, as {rule!r} has data for; got {len(tokens)}"
        )


def check_caches(cache: Sequence[Cache], layers: int, rule: Mask | None) -> int:
    """Refuse what is not one cache a layer, all in the same state, of a model that masks.

    Args:
        cache: what came.
        layers: blocks of the model.
        rule: the mask in force, or None.

    Returns:
        How many positions it has seen.

    Raises:
        TypeError: if it is no list of caches.
        ValueError: if there are too many or too few, they hold other positions, or no mask is
            in force.
    """
    if not isinstance(cache, Sequence) or not all(isinstance(c, Cache) for c in cache):
        raise TypeError("cache: expected a list with one Cache a layer; see new_cache of the model")
    if len(cache) != layers or len(set(map(id, cache))) != layers:
        raise ValueError(
            f"cache: expected {layers} different caches, one a layer; got {len(cache)}"
        )
    if not all(layer.same_state(cache[0]) for layer in cache[1:]):
        raise ValueError(
            "cache: expected the same kind of cache and the same positions in all layers; got "
            f"lengths {[c.length for c in cache]}"
        )
    if rule is None:
        raise ValueError(
            "cache: expected a model that applies its mask, because only the mask keeps past keys "
            "from changing; got one that does not"
        )
    return cache[0].length


def check_length(seen: int, new: int, start: int | None, context: int) -> None:
    """Refuse words that do not follow those in the cache, or that do not fit.

    Args:
        seen: positions that the cache has seen.
        new: how many follow.
        start: where the caller believes that they start, or None.
        context: most positions of the model.

    Raises:
        ValueError: if `start` is another than `seen`, or the text too long.
    """
    if start not in (None, seen):
        raise ValueError(f"start: expected {seen}, the positions seen so far; got {start}")
    if seen + new > context:
        parts = f" ({seen} cached and {new} new)" if seen else ""
        raise ValueError(
            f"tokens: expected at most {context} positions (the context); got {seen + new}{parts}"
        )


def check_chunk(rule: Mask, seen: int, new: int, dropped: int = 0) -> None:
    """Refuse a chunk that would give other outputs through a cache than the whole text at once.

    Args:
        rule: the mask.
        seen: positions that the cache has seen.
        new: how many follow.
        dropped: how many of the first positions the cache no longer holds.

    Raises:
        ValueError: if the text would end inside a prefix, whose rows must see all of it; if a
            cached position may see a new one, so that its keys would have to change; if a new one
            may see what has been dropped.
    """
    if seen + new < rule.least_keys:
        raise ValueError(
            f"tokens: expected at least the {rule.least_keys} positions of the prefix of "
            f"{rule!r}, in one chunk; got {seen + new}"
        )
    slots = torch.arange(seen, seen + new)
    if not rule.never_ahead and bool(rule.tensor(torch.arange(seen), slots).any()):
        raise ValueError(
            f"cache: {rule!r} lets a cached position see a new one, so its keys would have to "
            "change; feed those positions in one chunk"
        )
    if dropped > 0:
        wanted = rule.tensor(slots, torch.arange(dropped)).flatten(end_dim=-2).any(dim=0)
        if bool(wanted.any()):
            raise ValueError(
                f"cache: {rule!r} lets a new word see position {int(wanted.nonzero()[0])}, which "
                "the cache has dropped"
            )


def check_padding(
    padding: Any, tokens: Tensor, cache: Sequence[Cache] | None = None
) -> Tensor | None:
    """The padding in force: what is given, or what the cache remembers.

    Args:
        padding: slots of padding at the left of each sequence, integers [B], or None.
        tokens: the new words, [B, T].
        cache: one cache a layer, or None.

    Returns:
        Integers [B], a copy; None if there is none.

    Raises:
        TypeError: if it is not of integers.
        ValueError: if it is not one number of at least 0 for each sequence, or not that of the
            positions in the cache.
    """
    remembered = cache[0].padding if cache and cache[0].length else None
    if padding is None:
        return remembered
    padding = torch.as_tensor(padding, device=tokens.device).clone()
    if padding.is_floating_point() or padding.dtype == torch.bool:
        raise TypeError(f"padding: expected integers, slots a sequence; got {padding.dtype}")
    if padding.shape != tokens.shape[:1] or bool((padding < 0).any()):
        raise ValueError(
            f"padding: expected one number of at least 0 for each of {len(tokens)} sequences; "
            f"got {padding.tolist()}"
        )
    if cache and cache[0].length:
        before = torch.zeros_like(padding) if remembered is None else remembered
        if not torch.equal(before, padding):
            raise ValueError(
                f"padding: expected {before.tolist()}, as for the positions in the cache; got "
                f"{padding.tolist()}"
            )
    return padding if bool(padding.any()) else None


def check_positions(positions: Tensor | None, tokens: Tensor) -> Tensor | None:
    """Refuse logical positions that are not one integer for each word, [T] or [B, T].

    Raises:
        TypeError: if they are not integers.
        ValueError: if their shape is another.
    """
    if positions is None:
        return None
    if positions.is_floating_point() or positions.dtype == torch.bool:
        raise TypeError(f"positions: expected integers; got {positions.dtype}")
    if positions.shape not in (tokens.shape, tokens.shape[1:]):
        raise ValueError(
            f"positions: expected shape {list(tokens.shape[1:])} or {list(tokens.shape)}; got "
            f"{list(positions.shape)}"
        )
    return positions


def check_rows(mask: Tensor | None, q_pos: Tensor) -> None:
    """Refuse a mask that leaves a query nothing to see.

    A single word on another device than the CPU is not looked at: that would make every decoding
    step wait for the device.

    Args:
        mask: bool [T, S] or [B, 1, T, S], or None.
        q_pos: positions of the queries, [T] or [B, T]; at -1 there is none.

    Raises:
        ValueError: if there is such a query.
    """
    if mask is None or (mask.device.type != "cpu" and mask.shape[-2] == 1):
        return
    queries = q_pos if q_pos.ndim == 1 else q_pos[:, None]  # [T] or [B, 1, T], as the rows
    if bool((~mask.any(dim=-1) & (queries >= 0)).any()):
        raise ValueError(
            "mask: expected every query to see at least one key; got a row that sees none. Is "
            "the rule inverted? True means may attend."
        )


def look_up(table: nn.Embedding, numbers: Tensor, what: str) -> Tensor:
    """Rows of a table, [...] -> [..., C]; an error of its own kind says which numbers there are.

    On a GPU PyTorch stops with an error that says less: looking first would make every step wait.

    Raises:
        ValueError: if a number is none of the table's.
    """
    try:
        return table(numbers)
    except IndexError:
        raise ValueError(
            f"{what} in 0..{table.num_embeddings - 1}; got {int(numbers.min())}.."
            f"{int(numbers.max())}"
        ) from None
