"""Keys and values that are computed once and kept: the KV cache (chapter 5).

Under a causal mask the key and the value of a position never change once they are computed, so a
model that writes a text can keep them. Three ways of keeping them share one interface:

- `ConcatCache` glues new tensors to old ones: the simplest, and it copies everything each time;
- `StaticCache(capacity)` writes into a buffer that is allocated once;
- `RingCache(window)` keeps the last `window` positions only, for a sliding window.

A cache serves one layer. It holds keys [..., S, D] and values [..., S, Dv]; the leading axes are
free ([B, G] in a model, with G the number of heads that keys have; none in a small example). The
last axis is contiguous, as fused kernels want it. Positions are absolute: `positions` says which
ones are held, in the order in which they lie in memory, so that a rule of `course_lib.masks`
gives the right rows for any cache, a ring included:

>>> import torch
>>> from course_lib.masks import causal
>>> cache = RingCache(3)
>>> for t in range(5):
...     k, v, positions = cache.append(torch.ones(1, 4), torch.ones(1, 4))
>>> cache.positions
tensor([3, 4, 2])
>>> causal().matrix(torch.tensor([4]), cache.positions)
tensor([[True, True, True]])

**Write, then commit.** A model asks, writes layer by layer, and commits when all has gone well:

    q_pos = cache[0].next_positions(n)   # [T] or [B, T]: where the n new words stand
    k_pos = cache[0].positions_after(n)  # [S] or [B, S]: where the keys stand that they will meet
    for block, layer in zip(blocks, cache):
        ... k, v = layer.write(k, v)     # [B, G, S, D]: what is held, and the new
    for layer in cache:
        layer.commit(n)                  # only now do the lengths move

What is written lies beyond `length` until it is committed, so a pass that fails, or that the
reader stops, leaves nothing to undo. A cache in which each sequence of a batch has a length of
its own (a server's blocks) answers [B, T] and [B, S], with -1 where a sequence has no word, and
overrides these four methods and `crop`. What it hands out at -1 must be finite: 0 x NaN is NaN.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from course_lib.cache_checks import (
    check_crop,
    check_entries,
    check_fit,
    check_following,
    check_no_gradient,
)
from course_lib.validate import check_count

#: The caches of this module, by name.
CacheKind = Literal["concat", "static", "ring"]


class KVEntries(NamedTuple):
    """Keys, values and where they belong.

    Attributes:
        k: keys, shape [..., S, D].
        v: values, shape [..., S, Dv].
        positions: absolute position of each, int64, shape [S].
    """

    k: Tensor
    v: Tensor
    positions: Tensor


class Cache(ABC):
    """What all caches have in common; see the module for what they are.

    Attributes:
        length: how many positions are committed: 0..length-1, so the next one is `length`.
        first: the lowest position that is still held; above 0 once a ring has overwritten some.
        padding: a note of the model: how many of them are padding at the left, integer [B], or
            None.
    """

    def __init__(self) -> None:
        self.length = self.first = 0
        self.padding: Tensor | None = None
        self._k: Tensor | None = None
        self._v: Tensor | None = None

    def append(
        self, k: Tensor, v: Tensor, positions: Sequence[int] | Tensor | None = None
    ) -> KVEntries:
        """Write and commit at once, for those who have one layer only.

        Args:
            k: keys, floating, shape [..., T, D], T > 0.
            v: values, same dtype and device, shape [..., T, Dv].
            positions: where they belong; checked if given, as a guard against a chunk that was
                skipped or fed twice. They must follow: length, length + 1, ...

        Returns:
            What the new queries must be compared with, the new keys and values included. For a
            ring this is more than it holds afterwards: the first query of a chunk may still see
            what the last one overwrites. Views where possible: use them before the next
            `append`, or copy them.

        Raises:
            TypeError, ValueError: as `write`, or if positions do not follow. The cache is then as
                it was.
        """
        check_entries(k, v)
        n = k.shape[-2]
        check_following(positions, self.length, n)
        after = self.positions_after(n).to(k.device)
        entries = KVEntries(*self.write(k, v), after)
        self.commit(n)
        return entries

    def next_positions(self, n: int) -> Tensor:
        """Where the next n words stand, int64 [n]."""
        return torch.arange(self.length, self.length + n, device=self._device)

    def positions_after(self, n: int) -> Tensor:
        """Where the keys stand that `write` of n more returns, int64 [S]; nothing changes."""
        return torch.cat([self.positions, self.next_positions(n)])

    @abstractmethod
    def write(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write the keys and values of the next positions; they count once they are committed.

        Args:
            k: keys, shape [..., T, D], T > 0; after the first ones of the same batch, heads,
                dtype and device.
            v: values, shape [..., T, Dv].

        Returns:
            Keys [..., S, D] and values [..., S, Dv], the new ones included, in the order of
            `positions_after(T)`; views where possible.

        Raises:
            TypeError: if the dtype is not the one held.
            ValueError: if shapes or devices do not fit, if the cache would overflow, or if
                gradients would have to flow through a buffer that is overwritten.
        """

    def commit(self, n: int) -> None:
        """Count the n positions that were written last."""
        self.length += n

    def view(self) -> tuple[Tensor, Tensor]:
        """Keys and values held now, in the order of `positions`.

        Raises:
            ValueError: if nothing was ever appended, so that shapes are not known.
        """
        if self._k is None or self._v is None:
            raise ValueError("cache: expected something in it; got an empty one")
        return self._held(self._k), self._held(self._v)

    @property
    def positions(self) -> Tensor:
        """Absolute positions held now, int64 [S], in the order of `view`."""
        return torch.arange(self.length, device=self._device)

    def crop(self, length: int) -> None:
        """Forget positions `length` and later: drafts that were refused (speculative decoding).

        Source: Y. Leviathan et al., "Fast Inference from Transformers via Speculative Decoding",
        ICML 2023, arXiv:2211.17192.

        Args:
            length: 0..self.length.

        Raises:
            TypeError: if it is not an integer.
            ValueError: if it is out of range; for a ring, if what the next query needs has been
                overwritten.
        """
        self.length = check_crop(length, self.length)

    @property
    def room(self) -> int | None:
        """How many more positions fit; None if there is no limit."""
        return None

    @property
    def nbytes(self) -> int:
        """Bytes allocated for keys and values."""
        return sum(x.nbytes for x in (self._k, self._v) if x is not None)

    def same_state(self, other: "Cache") -> bool:
        """Whether both hold the same positions in the same order, as the layers of a model do."""
        return self._state() == other._state()

    def _state(self) -> tuple[object, ...]:
        return type(self), self.length, self.first

    @property
    def _device(self) -> torch.device | None:
        return None if self._k is None else self._k.device

    def _check(self, k: Tensor, v: Tensor) -> None:
        """Refuse what `write` cannot take."""
        check_fit(k, v, self._k if self.length else None, self._v, self.length, self.room)

    def _held(self, buffer: Tensor) -> Tensor:
        """The part of `self._k` or `self._v` that is held, in the order of `positions`."""
        return buffer[..., : self.length, :]


class ConcatCache(Cache):
    """Glue the new to the old with `torch.cat`: no limit, no waste, and a full copy each time.

    Gradients pass through it.
    """

    def write(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """As `Cache.write`."""
        self._check(k, v)
        old_k, old_v = self.view() if self.length else (k[..., :0, :], v[..., :0, :])
        self._k, self._v = torch.cat([old_k, k], dim=-2), torch.cat([old_v, v], dim=-2)
        return self._k, self._v


class StaticCache(Cache):
    """Write into a buffer that is allocated once, and hand out views of it: nothing is copied.

    Args:
        capacity: most positions it can hold, at least 1.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = check_count("capacity", capacity, 1)

    @property
    def room(self) -> int:
        """How many more positions fit."""
        return self.capacity - self.length

    def write(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """As `Cache.write`."""
        self._check(k, v)
        check_no_gradient(k, v)
        self._k = keys = _buffer(self._k, k, self.capacity)
        self._v = values = _buffer(self._v, v, self.capacity)
        end = self.length + k.shape[-2]
        keys[..., self.length : end, :] = k
        values[..., self.length : end, :] = v
        return keys[..., :end, :], values[..., :end, :]


class RingCache(Cache):
    """Keep the last positions only, each in slot `position mod slots`: memory stays constant.

    Right for rules that look back less than `window` positions, such as `sliding_window(window)`.
    A new position overwrites an old one, which the first query of a chunk may still need; so
    what is written stays aside, and goes into the slots when it is committed.
    Source: A. Q. Jiang et al., "Mistral 7B", 2023, arXiv:2310.06825, section 2.

    Args:
        window: how many positions a query may see, its own included; at least 1.
        spare: slots beyond the window. A step can be cropped away only as long as it has not
            overwritten what the query before it needs: with `spare` slots, the last `spare + 1`
            positions can.
    """

    def __init__(self, window: int, spare: int = 0) -> None:
        super().__init__()
        self.window = check_count("window", window, 1)
        self.spare = check_count("spare", spare, 0)
        self.slots = self.window + self.spare

    @property
    def positions(self) -> Tensor:
        """Absolute positions held now, int64 [S], in the order of `view`: that of the slots."""
        held = torch.arange(self.first, self.length, device=self._device)
        return held[torch.argsort(held % self.slots)]

    def write(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """As `Cache.write`."""
        self._check(k, v)
        check_no_gradient(k, v)
        self._aside = k, v
        if self.length == 0:
            return k, v
        old_k, old_v = self.view()
        return torch.cat([old_k, k], dim=-2), torch.cat([old_v, v], dim=-2)

    def commit(self, n: int) -> None:
        """Put what was written last into its slots, and count it."""
        k, v = self._aside
        self._k = keys = _buffer(self._k, k, self.slots)
        self._v = values = _buffer(self._v, v, self.slots)
        end, kept = self.length + n, min(n, self.slots)
        slots = torch.arange(end - kept, end, device=k.device) % self.slots
        keys[..., slots, :] = k[..., n - kept : n, :]
        values[..., slots, :] = v[..., n - kept : n, :]
        self.first, self.length = max(self.first, end - self.slots), end
        del self._aside

    def crop(self, length: int) -> None:
        """As `Cache.crop`, unless what the next query needs has been overwritten."""
        length = check_crop(length, self.length, self.first, self.window)
        self.length, self.first = length, self.first if length else 0

    def _state(self) -> tuple[object, ...]:
        return *super()._state(), self.window, self.spare

    def _held(self, buffer: Tensor) -> Tensor:
        if self.length - self.first == self.slots:
            return buffer
        return buffer[..., self.positions % self.slots, :]  # not full yet, or cropped


def _buffer(old: Tensor | None, new: Tensor, slots: int) -> Tensor:
    """A buffer for keys like `new`: the old one, if they fit, else an empty one."""
    shape = (*new.shape[:-2], slots, new.shape[-1])
    if old is not None and (old.shape, old.dtype, old.device) == (shape, new.dtype, new.device):
        return old
    return new.new_empty(shape)


def new_caches(kind: CacheKind, layers: int, context: int, size: int | None = None) -> list[Cache]:
    """Empty caches, one a layer, for a model that can hold `context` positions.

    Args:
        kind: "concat", "static" or "ring".
        layers: how many.
        context: most positions of the model.
        size: capacity of a static cache (the context if not given) or window of a ring (needed
            there); not for "concat".

    Raises:
        ValueError: if `kind` is unknown, or `size` missing, unwanted, below 1 or beyond the
            context.
    """
    if kind not in get_args(CacheKind):
        raise ValueError(f"kind: expected one of {get_args(CacheKind)}; got {kind!r}")
    if kind == "concat" and size is not None:
        raise ValueError(f"size: expected none for a concat cache; got {size}")
    if size is not None and not 1 <= size <= context:
        raise ValueError(f"size: expected 1..{context} (the model's context); got {size}")
    if kind == "concat":
        return [ConcatCache() for _ in range(layers)]
    if kind == "static":
        return [StaticCache(context if size is None else size) for _ in range(layers)]
    if size is None:
        raise ValueError("size: expected the window of the ring; got None")
    return [RingCache(size) for _ in range(layers)]
