"""What a caller of a model can get wrong, answered at the door, before anything is computed."""

import torch

from course_lib.masks import Mask


def check_chunk(rule: Mask, length: int, n: int, dropped: int = 0) -> None:
    """Refuse a chunk that would give other outputs through a cache than the whole text at once.

    Args:
        rule: the mask.
        length: positions that the cache has seen.
        n: new positions.
        dropped: how many of the first positions the cache no longer holds.

    Raises:
        ValueError: if the text would end inside a prefix, whose rows must see all of it; if a
            cached position may see a new one, so that its keys would have to change; if a new one
            may see what has been dropped.
    """
    if length + n < rule.least_keys:
        raise ValueError(
            f"tokens: expected at least the {rule.least_keys} positions of the prefix of "
            f"{rule!r}, in one chunk; got {length + n}"
        )
    slots = torch.arange(length, length + n)
    if not rule.never_ahead and bool(rule.tensor(torch.arange(length), slots).any()):
        raise ValueError(
            f"cache: {rule!r} lets a cached position see a new one, so its keys would have to "
            "change; feed those positions in one chunk"
        )
    if dropped > 0:
        seen = rule.tensor(slots, torch.arange(dropped)).flatten(end_dim=-2).any(dim=0)
        if bool(seen.any()):
            raise ValueError(
                f"cache: {rule!r} lets a new word see position {int(seen.nonzero()[0])}, which "
                "the cache has dropped"
            )
