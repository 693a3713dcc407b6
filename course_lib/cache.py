"""Keys and values that are computed once and kept: the KV cache (chapter 5).

Under a causal mask the key and the value of a position never change once they are computed, so a
model that writes a text can keep them. Three ways of keeping them share one interface:

- `ConcatCache` glues new tensors to old ones: the simplest, and it copies everything each time;
- `StaticCache(capacity)` writes into a buffer that is allocated once;
- `RingCache(window)` keeps the last `window` positions only, for a sliding window.

A cache serves one layer. It holds keys [..., S, D] and values [..., S, Dv]; the leading axes are
free ([B, H] in a model, with H the number of *key* heads; none in a small example). Positions are
absolute: `positions` says which ones are held, in the order in which they lie in memory, so that
a rule of `course_lib.masks` gives the right rows for any cache, a ring included:

>>> import torch
>>> from course_lib.masks import causal
>>> cache = RingCache(3)
>>> for t in range(5):
...     k, v, positions = cache.append(torch.ones(1, 4), torch.ones(1, 4))
>>> positions
tensor([3, 4, 2])
>>> causal().matrix(torch.tensor([4]), positions)
tensor([[True, True, True]])
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from course_lib.validate import check_count


class Held(NamedTuple):
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
        length: how many positions have gone in: 0..length-1, so the next one is `length`.
        padding: a note of the model: how many of them are padding at the left, integer [B], or
            None. The next chunk must be told the same.
    """

    def __init__(self) -> None:
        self.length = 0
        self.padding: Tensor | None = None
        self._k: Tensor | None = None
        self._v: Tensor | None = None
        self._form: tuple[object, ...] = ()  # what later keys and values have to fit

    # --- what a user needs -------------------------------------------------------------------

    def append(self, k: Tensor, v: Tensor, positions: Sequence[int] | Tensor | None = None) -> Held:
        """Keep the keys and values of the next positions.

        Args:
            k: keys, floating, shape [..., T, D], T > 0.
            v: values, same dtype and device, shape [..., T, Dv].
            positions: where they belong; checked if given, as a guard against a chunk that was
                skipped or fed twice. They must follow: length, length + 1, ...

        Returns:
            What the new queries must be compared with, the new keys and values included. For a
            ring this can be more than it holds afterwards: the first query of a chunk may still
            see what the last one overwrites. Views where possible: use them before the next
            `append`, or copy them.

        Raises:
            TypeError: if k or v is not floating, or their dtype is not the one held.
            ValueError: if shapes, devices or positions do not fit, if the cache would overflow,
                or if gradients would have to flow through a buffer that is overwritten.
            The cache is then as it was.
        """
        for name, tensor in (("k", k), ("v", v)):
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
                kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
                raise TypeError(f"{name}: expected a floating tensor; got {kind}")
        if v.dtype != k.dtype:
            raise TypeError(f"v: expected the dtype of k, {k.dtype}; got {v.dtype}")
        if v.device != k.device:
            raise ValueError(f"v: expected the device of k, {k.device}; got {v.device}")
        self.check(k.shape, v.shape, k.dtype, k.device)
        self._check_positions(positions, k.shape[-2])
        held = self.upcoming(k.shape[-2]).to(k.device)
        return Held(*self.put(k, v), held)

    def view(self) -> tuple[Tensor, Tensor]:
        """Keys and values held now, in the order of `positions`.

        Raises:
            ValueError: if nothing was ever appended, so that shapes are not known.
        """
        if self._k is None or self._v is None:
            raise ValueError("cache: expected something in it; got an empty one")
        return self._kept(self._k), self._kept(self._v)

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
        length = check_count("length", length, 0)
        if length > self.length:
            raise ValueError(f"length: expected at most {self.length} (held); got {length}")
        self.length = length

    @property
    def room(self) -> int | None:
        """How many more positions fit; None if there is no limit."""
        return None

    @property
    def nbytes(self) -> int:
        """Bytes allocated for keys and values."""
        if self._k is None or self._v is None:
            return 0
        return sum(x.numel() * x.element_size() for x in (self._k, self._v))

    # --- what a model needs ------------------------------------------------------------------

    @property
    def layout(self) -> tuple[object, ...]:
        """What decides which positions are held and where; equal for caches that are alike."""
        return type(self), self.length

    def alike(self, other: "Cache") -> bool:
        """Whether both hold the same positions and what fits one fits the other.

        False if in doubt: as long as both are empty, or if one has been cropped to nothing.
        """
        return (
            type(self) is type(other)
            and self.length == other.length > 0
            and self._form == other._form
        )

    def upcoming(self, n: int) -> Tensor:
        """The positions that `append` of n more would return, int64 [S]; nothing changes."""
        return torch.arange(self.length + n, device=self._device)

    def check(
        self,
        k_shape: Sequence[int],
        v_shape: Sequence[int],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Whether `append` would take keys and values like these; if not, an error says why.

        Args:
            k_shape: shape of the keys, [..., T, D].
            v_shape: shape of the values, [..., T, Dv].
            dtype: type of both.
            device: where both are.

        Raises:
            TypeError, ValueError: as `append`.
        """
        k_shape, v_shape = list(k_shape), list(v_shape)
        if len(k_shape) < 2 or k_shape[-2] == 0:
            raise ValueError(f"k: expected shape [..., T, D], T > 0; got {k_shape}")
        if v_shape[:-1] != k_shape[:-1]:
            raise ValueError(f"v: expected one value a key, {[*k_shape[:-1], 'Dv']}; got {v_shape}")
        if self.room is not None and k_shape[-2] > self.room:
            raise ValueError(
                f"k: expected at most {self.room} more positions (capacity "
                f"{self.length + self.room}, {self.length} held); got {k_shape[-2]}"
            )
        if self._k is not None and self._v is not None and self.length > 0:
            self._check_like("k", k_shape, self._k, dtype, device)
            self._check_like("v", v_shape, self._v, dtype, device)

    def snapshot(self) -> dict[str, Any]:
        """What `restore` needs to undo later appends; small, as old positions stay in place."""
        return dict(vars(self))

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a snapshot."""
        vars(self).update(state)

    def put(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """`append` for those who have called `check`: no checks of shapes, and no positions.

        Raises:
            ValueError: if gradients would have to flow through a buffer that is overwritten.
        """
        self._check_gradient(k, v)
        if self.length == 0:
            self._form = (self.room, k.shape[:-2], k.shape[-1], v.shape[-1], k.dtype, k.device)
        return self._store(k, v)

    # --- what differs ------------------------------------------------------------------------

    @abstractmethod
    def _store(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """`put`, after its check."""

    @abstractmethod
    def _kept(self, buffer: Tensor) -> Tensor:
        """The part of `self._k` or `self._v` that is held, in the order of `positions`."""

    # --- inside ------------------------------------------------------------------------------

    @property
    def _device(self) -> torch.device | None:
        return None if self._k is None else self._k.device

    @staticmethod
    def _check_like(
        name: str, shape: list[int], held: Tensor, dtype: torch.dtype, device: torch.device
    ) -> None:
        if dtype != held.dtype:
            raise TypeError(f"{name}: expected the dtype held, {held.dtype}; got {dtype}")
        if device != held.device:
            raise ValueError(f"{name}: expected the device held, {held.device}; got {device}")
        lead, width = list(held.shape[:-2]), held.shape[-1]
        if shape[:-2] != lead or shape[-1] != width:
            raise ValueError(
                f"{name}: expected shape {[*lead, 'T', width]} as held (batch, heads, T, entries); "
                f"got {shape}"
            )

    def _check_positions(self, positions: Sequence[int] | Tensor | None, n: int) -> None:
        if positions is None:
            return
        array = torch.as_tensor(positions)
        if array.is_floating_point() or array.ndim != 1:
            raise TypeError(f"positions: expected integers, one a new position; got {positions!r}")
        given = array.tolist()
        if given != list(range(self.length, self.length + n)):
            raise ValueError(
                f"positions: expected {self.length}..{self.length + n - 1}, which follow the "
                f"{self.length} held; got {given}"
            )

    def _check_gradient(self, k: Tensor, v: Tensor) -> None:
        """Buffers are overwritten in place, which gradients do not survive."""
        if torch.is_grad_enabled() and (k.requires_grad or v.requires_grad):
            raise ValueError(
                "k: expected no gradient history, because the buffer is overwritten in place; "
                "use torch.no_grad(), or a ConcatCache"
            )


@contextmanager
def all_or_nothing(caches: Iterable[Cache] | None) -> Iterator[None]:
    """Take back what was appended if the block fails, or if the reader presses stop."""
    before = [(cache, cache.snapshot()) for cache in caches or ()]
    try:
        yield
    except BaseException:
        for cache, state in before:
            cache.restore(state)
        raise


class ConcatCache(Cache):
    """Glue the new to the old with `torch.cat`: no limit, no waste, and a full copy each time.

    Gradients pass through it.
    """

    def _store(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        if self._k is None or self._v is None or self.length == 0:
            self._k, self._v = k.clone(), v.clone()  # the caller may write into theirs
        else:
            self._k = torch.cat([self._kept(self._k), k], dim=-2)
            self._v = torch.cat([self._kept(self._v), v], dim=-2)
        self.length += k.shape[-2]
        return self._k, self._v

    def _kept(self, buffer: Tensor) -> Tensor:
        return buffer[..., : self.length, :]  # shorter than the buffer after a crop

    def _check_gradient(self, k: Tensor, v: Tensor) -> None:
        pass


class _BufferCache(Cache):
    """A cache with a buffer of a fixed number of slots, made when the first keys arrive.

    Keys lie in memory as [..., slots, D] and values as [..., Dv, slots], under a transposed view:
    a score sums over D and an output over slots, and processors sum fastest along memory.
    """

    def __init__(self, slots: int) -> None:
        super().__init__()
        self._slots = slots

    def _allocate(self, k: Tensor, v: Tensor) -> None:
        """Make the buffers; make them anew if an emptied cache gets keys of another kind."""

        def fits(buffer: Tensor | None, new: Tensor) -> bool:
            return buffer is not None and (
                (buffer.dtype, buffer.device) == (new.dtype, new.device)
                and buffer.shape == (*new.shape[:-2], self._slots, new.shape[-1])
            )

        if not (fits(self._k, k) and fits(self._v, v)):
            lead = k.shape[:-2]
            self._k, self._v = (
                k.new_empty((*lead, self._slots, k.shape[-1])),
                v.new_empty((*lead, v.shape[-1], self._slots)).mT,
            )


class StaticCache(_BufferCache):
    """Write into a buffer that is allocated once, and hand out views of it: nothing is copied.

    Args:
        capacity: most positions it can hold, at least 1.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = check_count("capacity", capacity, 1)
        super().__init__(self.capacity)

    @property
    def room(self) -> int:
        """How many more positions fit."""
        return self.capacity - self.length

    def _store(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        if self.length == 0:
            self._allocate(k, v)
        n = k.shape[-2]
        before, after = self.length, self.length + n
        self._k.narrow(-2, before, n).copy_(k)
        self._v.narrow(-2, before, n).copy_(v)
        self.length = after
        return self._k.narrow(-2, 0, after), self._v.narrow(-2, 0, after)  # as `_kept`, twice

    def _kept(self, buffer: Tensor) -> Tensor:
        return buffer.narrow(-2, 0, self.length)


class RingCache(_BufferCache):
    """Keep the last positions only, each in slot `position mod slots`: memory stays constant.

    Right for rules that look back less than `window` positions, such as `sliding_window(window)`.
    Source: A. Q. Jiang et al., "Mistral 7B", 2023, arXiv:2310.06825, section 2.

    Args:
        window: how many positions a query may see, its own included; at least 1.
        spare: slots beyond the window. A step can be cropped away only as long as it has not
            overwritten what the query before it needs: with `spare` slots, the last `spare + 1`
            positions can.
    """

    def __init__(self, window: int, spare: int = 0) -> None:
        self.window = check_count("window", window, 1)
        self.spare = check_count("spare", spare, 0)
        super().__init__(self.window + self.spare)
        self.slots = self.window + self.spare
        self._first = 0  # the lowest position that has not been overwritten

    @property
    def positions(self) -> Tensor:
        """Absolute positions held now, int64 [S], in the order of `view`: that of the slots."""
        held = torch.arange(self._first, self.length, device=self._device)
        return held[torch.argsort(held % self._slots)]

    def alike(self, other: Cache) -> bool:
        """As `Cache.alike`."""
        return super().alike(other) and self.layout == other.layout

    @property
    def layout(self) -> tuple[object, ...]:
        """What decides which positions are held and where; equal for caches that are alike."""
        return *super().layout, self.window, self.spare, self._first

    def upcoming(self, n: int) -> Tensor:
        """The positions that `append` of n more would return, int64 [S]; nothing changes."""
        if n > 1:
            return torch.cat([self.positions, super().upcoming(n)[self.length :]])
        end = self.length + 1
        held = torch.arange(max(self._first, end - self._slots), end, device=self._device)
        return held[torch.argsort(held % self._slots)]

    def _store(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        if self.length == 0:
            self._allocate(k, v)
        n = k.shape[-2]
        # The first query of a chunk may see keys that its last position overwrites, so the
        # answer is put together before anything is written. One position overwrites only what
        # its own query is too far away to see.
        joined = None if n == 1 else self._joined(k, v)
        end = self.length + n
        last = min(n, self._slots)
        slots = torch.arange(end - last, end, device=k.device) % self._slots
        self._k[..., slots, :] = k[..., n - last :, :]
        self._v[..., slots, :] = v[..., n - last :, :]
        self._first, self.length = max(self._first, end - self._slots), end
        return self.view() if joined is None else joined

    def snapshot(self) -> dict[str, Any]:
        """As `Cache.snapshot`, with copies of the buffers: a ring overwrites old positions."""
        state = super().snapshot()
        return state | {n: x.clone() for n, x in state.items() if isinstance(x, Tensor)}

    def _joined(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """What is held, followed by a new chunk."""
        held_k, held_v = self.view()
        return torch.cat([held_k, k], dim=-2), torch.cat([held_v, v], dim=-2)

    def _kept(self, buffer: Tensor) -> Tensor:
        if self._first == 0:
            return buffer[..., : self.length, :]
        if self.length - self._first == self._slots:
            return buffer
        return buffer[..., self.positions % self._slots, :]  # after a crop: a copy

    def crop(self, length: int) -> None:
        """As `Cache.crop`, unless what the next query needs has been overwritten."""
        length = check_count("length", length, 0)
        needed = max(0, length - self.window + 1)  # the lowest position that it may see
        if self._first > needed and 0 < length <= self.length:
            raise ValueError(
                f"length: expected at least {self._first + self.window - 1}, because positions "
                f"before {self._first} have been overwritten (give the ring spare slots); "
                f"got {length}"
            )
        super().crop(length)
        if length == 0:
            self._first = 0
