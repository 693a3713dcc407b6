"""What `GPT` and `Llama` share: where new words stand, what they may see, and what a cache needs.

A decoder reads words at *slots*: 0, 1, 2, ... in the order in which they come, or as its cache
says. The mask is a rule on slots. *Logical* positions are what embeddings and rotations get: slots
less the padding at the left of a sequence, or what the caller gives.

Shapes in comments: B sequences, T new positions, S positions that they are compared with.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from course_lib.attention_kernels import Attend, fused, without_matrix
from course_lib.cache import Cache, CacheKind, new_caches
from course_lib.decoder_checks import (
    check_caches,
    check_chunk,
    check_length,
    check_padding,
    check_positions,
    check_rows,
    check_tokens,
)
from course_lib.masks import Mask, full, sliding_window


class Placed(NamedTuple):
    """Where new words stand and how they attend.

    Attributes:
        positions: logical positions, [T] or [B, T].
        mask: bool [T, S] or [B, 1, T, S], True = may attend; None where `attend` needs none.
        attend: how to attend.
        padding: slots of padding at the left of each sequence, [B], or None.
    """

    positions: Tensor
    mask: Tensor | None
    attend: Attend
    padding: Tensor | None


class Decoder(nn.Module):
    """A model whose words attend to earlier ones under a mask, with or without a cache.

    Attributes:
        config: its sizes, `vocab_size`, `context` and `layers` among them.
        mask: which positions may attend to which; any rule of `course_lib.masks`.
        token_embedding: what each word is, [V, C].
    """

    config: Any
    mask: Mask
    token_embedding: nn.Embedding

    @property
    def rule(self) -> Mask | None:
        """The mask in force now, or None."""
        return self.mask

    def place(
        self,
        tokens: Tensor,
        cache: Sequence[Cache] | None = None,
        *,
        start: int | None = None,
        padding: Tensor | None = None,
        positions: Tensor | None = None,
        attend: Attend | None = None,
    ) -> Placed:
        """Check a request, and say where its words stand and what they may see.

        Args:
            tokens: word numbers, int64, shape [B, T].
            cache: one `Cache` a layer.
            start: where the caller believes that the new words start, or None.
            padding: slots of padding at the left of each sequence, integer [B].
            positions: logical positions, integer [T] or [B, T].
            attend: how to attend, with the mask as a matrix; if not given, a fused kernel, without
                the matrix where it can do without.

        Raises:
            TypeError, ValueError: as the `forward` of a model.
        """
        rule, new, device = self.rule, tokens.shape[-1], tokens.device
        check_tokens(tokens, self.token_embedding.weight.device, rule)
        seen = 0 if cache is None else self.seen(cache)
        check_length(seen, new, start, self.config.context)
        if rule is not None:
            check_chunk(rule, seen, new, 0 if cache is None else cache[0].first)
        padding = check_padding(padding, tokens, cache)
        slots = k_slots = torch.arange(new, device=device)  # [T]
        if cache is not None:
            slots = cache[0].next_positions(new).to(device)  # [T] or [B, T]
            k_slots = cache[0].positions_after(new).to(device)  # [S] or [B, S]
        logical = check_positions(positions, tokens)
        if logical is None:
            logical = (slots if padding is None else slots - padding[:, None]).clamp(min=0)
        as_taught = type(self).visible is Decoder.visible  # chapter 5 overrides it, to show bugs
        if as_taught and padding is None and attend is None:
            kernel = without_matrix(rule, slots, k_slots, seen)
            if kernel is not None:
                return Placed(logical, None, kernel, padding)
        mask = self.visible(slots, k_slots, padding)
        check_rows(mask, slots)
        return Placed(logical, mask, attend or fused, padding)

    def visible(
        self, q_pos: Tensor, k_pos: Tensor | None = None, padding: Tensor | None = None
    ) -> Tensor | None:
        """The mask in force now.

        Args:
            q_pos: slots of the queries, integers [T] or [B, T].
            k_pos: slots of the keys, likewise; the same if not given.
            padding: slots of padding at the left of each sequence, integer [B].

        Returns:
            Bool [T, S] (or [B, 1, T, S]), True = may attend; None for no mask.
        """
        rule, k_pos = self.rule, q_pos if k_pos is None else k_pos
        if padding is None:
            return None if rule is None else rule.tensor(q_pos, k_pos)
        real = torch.where(k_pos >= padding[:, None], k_pos, -1)  # [B, S]: no key at padding
        seen = (full() if rule is None else rule).tensor(q_pos, real)  # [B, 1, T, S]
        # A padded slot sees itself, because a softmax over nothing is 0/0; nobody reads it.
        return seen | sliding_window(1).tensor(q_pos, k_pos)

    def new_cache(self, kind: CacheKind = "static", size: int | None = None) -> list[Cache]:
        """Empty caches, one a layer, for `forward`; see `course_lib.cache.new_caches`."""
        return new_caches(kind, self.config.layers, self.config.context, size)

    def seen(self, cache: Sequence[Cache]) -> int:
        """How many positions a cache has seen, if it is one that this model can use.

        Raises:
            TypeError: if it is no list of caches.
            ValueError: if it does not have one cache a layer, all in the same state, or if the
                model does not apply its mask.
        """
        return check_caches(cache, self.config.layers, self.rule)

    def commit(self, cache: Sequence[Cache] | None, new: int, padding: Tensor | None) -> None:
        """Count the new words in all layers, once the pass has succeeded."""
        for layer in cache or ():
            layer.padding = padding
            layer.commit(new)
