"""`Mask`: a rule on positions, and everything that follows from it (chapter 2 onwards)."""

import operator
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray

from course_lib.masks.conventions import to_additive
from course_lib.validate import Array, as_array, check_count, is_integer, to_numpy

#: A count n (meaning positions 0..n-1), or absolute positions as an integer array: [T], or [B, T]
#: with positions for each sequence, where -1 fills the places of a sequence that is shorter.
Positions = int | Sequence[Any] | Array
#: rule(batch index, query positions, key positions) -> bool, elementwise with broadcasting.
Rule = Callable[[Any, Any, Any], Any]


class Tile(IntEnum):
    """What a block of queries x keys holds: nothing, something or everything that is visible.

    An EMPTY tile can be skipped, a FULL one needs no mask arithmetic (chapters 6 and 7).
    """

    EMPTY = 0
    PARTIAL = 1
    FULL = 2


class Mask:
    """A rule on absolute positions: may the query at q attend to the key at k?

    Most code uses the built-in rules (`causal()`, `prefix_lm(2)`, ...) and composes them with
    `&`, `|` and `~`. To write your own, pass a predicate that works elementwise on integer arrays:

    >>> even = Mask(lambda q, k: k % 2 == 0, "even keys")
    >>> even.matrix(2, 4).astype(int)
    array([[1, 0, 1, 0],
           [1, 0, 1, 0]])

    Masks can be copied, pickled and saved with a model; an own predicate then has to be a function
    that stands in a module, as for any pickle.

    Args:
        may_attend: predicate `may_attend(q_pos, k_pos) -> bool`; broadcasting integer arrays of
            NumPy or torch come in, a boolean array goes out (True = may attend).
        expression: how the rule is written in code; `repr` shows it.
        words: the rule in words, for `describe`; the expression if not given.

    Attributes:
        batch: number of sequences B whose data the rule holds, or None.
        q_length: the rule's data covers queries at positions 0..q_length-1; None: at any.
        k_length: likewise for keys.
        least_keys: keys that must be there before any query can be answered rightly: the length
            of a prefix, whose rows see each other. `attention` refuses fewer.
        never_ahead: True: the rule blocks every later key. False: it has to be asked.
        is_causal: True: the rule is k <= q and nothing else, for which kernels have a path
            without a matrix. False: it has to be asked.
        is_full: True: the rule blocks nothing. False: it has to be asked.
    """

    # NumPy and torch ask these before they take a mask for an array.
    __array_ufunc__ = None

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], _types: Any, _args: Any = (), _kwargs: Any = None
    ) -> NoReturn:
        name = getattr(func, "__name__", "this function")
        raise TypeError(
            f"{name}: expected tensors; got a Mask. mask.tensor(n) is its matrix, and "
            "Mask.from_matrix(tensor) a Mask that can be combined with others"
        )

    def __init__(
        self, may_attend: Callable[[Any, Any], Any], expression: str, words: str | None = None
    ) -> None:
        if not callable(may_attend):
            raise TypeError(
                "may_attend: expected a function of (q_pos, k_pos); "
                f"got {type(may_attend).__name__}"
            )
        self._rule: Rule = lambda _batch, q, k: may_attend(q, k)
        self._expression = expression
        self._words = expression if words is None else words
        self.batch: int | None = None
        self.q_length: int | None = None
        self.k_length: int | None = None
        self.least_keys = 0
        self.never_ahead = self.is_causal = self.is_full = False
        self._device: torch.device | None = None
        #: A function and its arguments that make this mask again: what is pickled in its place.
        self._made_by: tuple[Callable[..., Mask], tuple[Any, ...]] = (
            Mask,
            (may_attend, expression, words),
        )

    @classmethod
    def from_matrix(cls, matrix: Sequence[Any] | Array) -> "Mask":
        """The rule that a dense mask shows: row q, column k for the query at q and the key at k.

        Args:
            matrix: bool, True = may attend, shape [Tq, Tk] or [B, 1, Tq, Tk]. `from_sdpa` and its
                siblings in `course_lib.masks` bring other conventions to this one.

        Returns:
            A mask for queries at 0..Tq-1 and keys at 0..Tk-1, to be composed like any other.

        Raises:
            TypeError: if `matrix` is not boolean.
            ValueError: if its shape is another.
        """
        data = private_copy("matrix", matrix, boolean="True = may attend")
        if data.ndim != 2 and not (data.ndim == 4 and data.shape[1] == 1):
            raise ValueError(
                f"matrix: expected shape [Tq, Tk] or [B, 1, Tq, Tk]; got {list(data.shape)}"
            )

        def rule(b: Any, q: Any, k: Any) -> Any:
            cells = lookup(data, q)
            return cells[q, k] if cells.ndim == 2 else cells[b, 0, q, k]

        mask = cls.per_sequence(
            rule, "Mask.from_matrix(matrix)", "what its matrix shows", data, data.ndim == 4
        )
        mask.q_length, mask.k_length = data.shape[-2:]
        later = np.triu(np.ones(data.shape[-2:], bool), 1)
        mask.never_ahead = not bool((data & lookup(later, data)).any())
        mask._made_by = (cls.from_matrix, (data,))
        return mask

    @classmethod
    def per_sequence(
        cls, rule: Rule, expression: str, words: str, data: Array, batched: bool
    ) -> "Mask":
        """A rule that looks up data (document ids, padding, prefix lengths).

        Args:
            rule: predicate `rule(batch_index, q_pos, k_pos) -> bool`.
            expression: how the rule is written in code.
            words: the rule in words.
            data: what it looks up.
            batched: whether the first axis of `data` is the sequences of a batch. The matrices
                then have shape [B, 1, Tq, Tk], else [Tq, Tk].
        """
        mask = cls(lambda q, k: rule(0, q, k), expression, words)
        mask._rule = rule
        mask.batch = len(data) if batched else None
        mask._device = data.device if isinstance(data, torch.Tensor) else None
        return mask

    @property
    def length(self) -> int | None:
        """Positions 0..length-1 may be queries and keys; None: any."""
        return _shorter(self.q_length, self.k_length)

    # --- derived forms ---------------------------------------------------------------------

    def matrix(self, q_pos: Positions, k_pos: Positions | None = None) -> Array:
        """The dense boolean mask, True = may attend.

        Positions of shape [B, T] are those of a ragged batch: each sequence has its own, and -1
        stands where a sequence has no token. Nothing there is visible or sees anything:

        >>> from course_lib.masks import causal
        >>> causal().matrix([[3], [1]], 4).astype(int)  # two sequences at different places
        array([[[[1, 1, 1, 1]]],
        <BLANKLINE>
        <BLANKLINE>
               [[[1, 1, 0, 0]]]])

        Args:
            q_pos: positions of the queries: a count n (meaning 0..n-1) or integers, shape [Tq]
                or [B, Tq].
            k_pos: positions of the keys, likewise; the same as `q_pos` if not given.

        Returns:
            Bool, shape [Tq, Tk], or [B, 1, Tq, Tk] if positions or the rule's data are given for
            each sequence. A torch tensor if a position array or the rule's data is one (on its
            device), else NumPy.

        Raises:
            TypeError: if positions are not integers or the rule does not return booleans.
            ValueError: if positions are negative, of a wrong shape, beyond the rule's data, or
                for another number of sequences. Values of a tensor on another device than the
                CPU are not looked at, which would make every decoding step wait for it.
        """
        q = _positions("q_pos", q_pos)
        k = q if k_pos is None else _positions("k_pos", k_pos)
        devices = [x.device for x in (q, k) if isinstance(x, torch.Tensor)]
        device = devices[0] if devices else self._device
        if device is not None:
            q, k = torch.as_tensor(q, device=device), torch.as_tensor(k, device=device)
        return self._dense(q, k)

    def tensor(
        self,
        q_pos: Positions,
        k_pos: Positions | None = None,
        device: torch.device | str | None = None,
    ) -> torch.Tensor:
        """As `matrix`, but always a torch tensor (on `device`, else where the rule's data is)."""
        if device is None and not isinstance(q_pos, torch.Tensor):
            device = self._device or "cpu"
        q = torch.as_tensor(_positions("q_pos", q_pos), device=device)
        return torch.as_tensor(self.matrix(q, k_pos))

    def bias(
        self,
        q_pos: Positions,
        k_pos: Positions | None = None,
        dtype: DTypeLike | torch.dtype = np.float64,
    ) -> Array:
        """The additive form: 0 where the query may attend, -inf where it may not.

        Args:
            q_pos: as for `matrix`.
            k_pos: as for `matrix`.
            dtype: a floating NumPy or torch dtype; it decides which library the result is of.

        Returns:
            Array of `dtype`, of the shape of `matrix`; add it to the scores before softmax.
        """
        if isinstance(dtype, torch.dtype):
            return to_additive(self.tensor(q_pos, k_pos), dtype)
        return to_additive(to_numpy(self.matrix(q_pos, k_pos)), dtype)

    def tiles(
        self, q_pos: Positions, k_pos: Positions | None = None, *, block_q: int, block_k: int
    ) -> NDArray[np.int8]:
        """Which blocks of the matrix are EMPTY, PARTIAL or FULL (see `Tile`).

        The dense matrix is never held as a whole: one row of blocks is looked at a time. The
        work still grows with Tq * Tk, about a second for 32,768 positions.
        A last block that the sequence does not fill counts by the cells that exist.

        Args:
            q_pos: as for `matrix`.
            k_pos: as for `matrix`.
            block_q: queries a block, at least 1.
            block_k: keys a block, at least 1.

        Returns:
            int8 NumPy array of `Tile` values, shape [ceil(Tq / block_q), ceil(Tk / block_k)],
            with [B, 1] in front where `matrix` has it.
        """
        block_q, block_k = check_count("block_q", block_q, 1), check_count("block_k", block_k, 1)
        q = to_numpy(_positions("q_pos", q_pos))
        k = q if k_pos is None else to_numpy(_positions("k_pos", k_pos))
        starts = np.arange(0, k.shape[-1], block_k)
        rows = [np.zeros((*self._dense(q[..., :0], k).shape[:-1], len(starts)), np.int8)]
        for first in range(0, q.shape[-1], block_q):
            block = to_numpy(self._dense(q[..., first : first + block_q], k))
            if len(starts) == 0:
                rows.append(np.zeros((*block.shape[:-2], 1, 0), np.int8))
                continue
            some = np.logical_or.reduceat(block.any(axis=-2), starts, axis=-1)
            every = np.logical_and.reduceat(block.all(axis=-2), starts, axis=-1)
            row = np.where(every, Tile.FULL, np.where(some, Tile.PARTIAL, Tile.EMPTY))
            rows.append(row[..., None, :].astype(np.int8))
        return np.concatenate(rows, axis=-2)

    @property
    def mask_mod(self) -> Callable[[Any, Any, Any, Any], Any]:
        """The rule as FlexAttention counts: queries and keys at 0, 1, 2, ...

        `create_block_mask(mask.mask_mod, B, H, Tq, Tk)` makes the BlockMask that `flex_attention`
        takes; the predicate alone it refuses. Unless compiled, this evaluates all Tq x Tk cells,
        and a BlockMask grows with their square too, if slowly: it holds four int32 numbers for
        every tile of 128 x 128, 16 MiB at 131,072 positions.
        Source: J. Dong et al., "FlexAttention", 2024, arXiv:2412.05496.
        """
        rule = self._rule
        return lambda b, h, q_idx, kv_idx: rule(b, q_idx, kv_idx)

    def mask_mod_at(
        self, q_pos: Positions, k_pos: Positions | None = None
    ) -> Callable[[Any, Any, Any, Any], Any]:
        """`mask_mod` for tokens that stand elsewhere: behind a cache, or in a ragged batch.

        Args:
            q_pos: as for `matrix`; `range(6, 16)` for ten queries behind six cached keys.
            k_pos: positions of the keys, likewise; 0, 1, 2, ... if not given.
        """
        rule, q = self._rule, _positions("q_pos", q_pos)
        k = None if k_pos is None else _positions("k_pos", k_pos)

        def at(positions: Array | None, b: Any, index: Any) -> Any:
            if positions is None:
                return index
            values = lookup(positions, index)
            return values[index] if values.ndim == 1 else values[b, index]

        def mask_mod(b: Any, _h: Any, q_idx: Any, kv_idx: Any) -> Any:
            q_at, k_at = at(q, b, q_idx), at(k, b, kv_idx)
            return rule(b, q_at, k_at) & (q_at >= 0) & (k_at >= 0)

        return mask_mod

    def describe(self) -> str:
        """The rule in one sentence, for people."""
        return f"{self._expression}: a query may attend to {self._words}."

    def draw(self, q_pos: Positions, k_pos: Positions | None = None) -> str:
        """The matrix as text, one line a query: `#` = may attend, `.` = blocked."""

        def drawn(matrix: NDArray[np.bool_]) -> str:
            return "\n".join(" ".join("#" if cell else "." for cell in row) for row in matrix)

        matrix = to_numpy(self.matrix(q_pos, k_pos))
        if matrix.ndim == 2:
            return drawn(matrix)
        return "\n\n".join(f"sequence {b}\n{drawn(one)}" for b, one in enumerate(matrix[:, 0]))

    # --- composition -----------------------------------------------------------------------

    def __and__(self, other: "Mask") -> "Mask":
        """Both rules must allow it."""
        both = self._combine(other, operator.and_, "&", "and")
        both.never_ahead = self.never_ahead or other.never_ahead
        both.is_full = self.is_full and other.is_full
        both.is_causal = (self.is_causal or self.is_full) and (other.is_causal or other.is_full)
        both.is_causal = both.is_causal and not both.is_full
        return both

    def __or__(self, other: "Mask") -> "Mask":
        """At least one rule must allow it."""
        either = self._combine(other, operator.or_, "|", "or")
        either.never_ahead = self.never_ahead and other.never_ahead
        either.is_causal = self.is_causal and other.is_causal
        return either

    def __rand__(self, other: Any) -> "Mask":
        return check_mask("other", other) & self

    def __ror__(self, other: Any) -> "Mask":
        return check_mask("other", other) | self

    def __invert__(self) -> "Mask":
        """Everything that the rule forbids."""
        rule = self._rule
        negated = self._like(
            lambda b, q, k: ~rule(b, q, k), f"~{self._bracketed()}", f"anything but ({self._words})"
        )
        negated._made_by = (operator.invert, (self,))
        return negated

    def __bool__(self) -> bool:
        raise TypeError(f"{self} is neither true nor false; combine masks with &, | and ~")

    def __repr__(self) -> str:
        return self._expression

    def __reduce__(self) -> tuple[Callable[..., "Mask"], tuple[Any, ...]]:
        return self._made_by

    # --- inside ----------------------------------------------------------------------------

    def _combine(
        self, other: "Mask", join: Callable[[Any, Any], Any], sign: str, word: str
    ) -> "Mask":
        other = check_mask("other", other)
        if None not in (self.batch, other.batch) and self.batch != other.batch:
            raise ValueError(
                f"cannot combine {self} of batch size {self.batch} "
                f"with {other} of batch size {other.batch}"
            )
        mine, theirs = self._rule, other._rule
        joined = self._like(
            lambda b, q, k: join(mine(b, q, k), theirs(b, q, k)),
            f"{self._bracketed()} {sign} {other._bracketed()}",
            f"({self._words}) {word} ({other._words})",
        )
        joined.batch = self.batch if other.batch is None else other.batch
        joined.q_length = _shorter(self.q_length, other.q_length)
        joined.k_length = _shorter(self.k_length, other.k_length)
        joined.least_keys = max(self.least_keys, other.least_keys)
        joined._device = self._device or other._device
        joined._made_by = (join, (self, other))
        return joined

    def _like(self, rule: Rule, expression: str, words: str) -> "Mask":
        """Another rule on the same data, about which nothing else is known."""
        mask = Mask(lambda q, k: rule(0, q, k), expression, words)
        mask._rule, mask._device, mask.batch = rule, self._device, self.batch
        mask.q_length, mask.k_length = self.q_length, self.k_length
        mask.least_keys = self.least_keys
        return mask

    def _bracketed(self) -> str:
        compound = " & " in self._expression or " | " in self._expression
        return f"({self._expression})" if compound else self._expression

    def _dense(self, q: Array, k: Array) -> Array:
        """The matrix for checked position arrays that are of one library and device."""
        self._check_covered("q_pos", q, self.q_length)
        self._check_covered("k_pos", k, self.k_length)
        batch = self._batch_size(q, k)
        q = q[:, None] if q.ndim == 1 else q[:, None, :, None]  # [Tq, 1] or [B, 1, Tq, 1]
        k = k[None, :] if k.ndim == 1 else k[:, None, None, :]  # [1, Tk] or [B, 1, 1, Tk]
        b: Any = 0
        if self.batch is not None:
            b = lookup(np.arange(self.batch)[:, None, None, None], q)
        allowed = self._rule(b, q, k)
        if getattr(allowed, "dtype", None) not in (np.dtype(bool), torch.bool):
            raise TypeError(
                f"may_attend of {self}: expected a boolean array, True = may attend; got "
                f"{getattr(allowed, 'dtype', type(allowed).__name__)}"
            )
        # A rule may look at queries or keys alone: stretch it over both, and over the batch.
        stretched = allowed & (q >= 0) & (k >= 0)
        return stretched if batch is None else stretched | (b < 0)

    def _check_covered(self, name: str, positions: Array, length: int | None) -> None:
        """Refuse positions beyond the rule's data."""
        if length is None or not _readable(positions) or positions.max() < length:
            return
        raise ValueError(
            f"{name}: position {int(positions.max())} is beyond the data of {self}, "
            f"which covers positions 0 to {length - 1}"
        )

    def _batch_size(self, q: Array, k: Array) -> int | None:
        """The B that rule and positions agree on; None if all of them are for any sequence."""
        sizes = {} if self.batch is None else {f"data of {self}": self.batch}
        sizes |= {name: len(x) for name, x in (("q_pos", q), ("k_pos", k)) if x.ndim == 2}
        if len(set(sizes.values()) - {1}) > 1:
            told = ", ".join(f"{n} in the {what}" for what, n in sizes.items())
            raise ValueError(f"q_pos, k_pos: expected one number of sequences; got {told}")
        return max(sizes.values()) if sizes else None


def check_mask(name: str, mask: Any) -> Mask:
    """`mask`, if it is a Mask.

    Raises:
        TypeError: if it is not; the message says what to write in its place.
    """
    if isinstance(mask, Mask):
        return mask
    if callable(mask):
        called = getattr(mask, "__name__", "the function")
        hint = f"the function {called}; call it: {called}(...)"
    elif hasattr(mask, "dtype"):
        hint = f"an array of {mask.dtype}; course_lib.masks.Mask.from_matrix(array) makes a Mask"
    else:
        hint = type(mask).__name__
    raise TypeError(f"{name}: expected a Mask; got {hint}")


def lookup(data: Array, like: Any) -> Array:
    """Per-sequence `data` in the library and on the device of the positions `like`."""
    if isinstance(like, torch.Tensor):
        return torch.as_tensor(data, device=like.device)
    return to_numpy(data)


def private_copy(name: str, values: Sequence[Any] | Array, *, boolean: str = "") -> Array:
    """A rule's own copy of its data: integers, or booleans where `boolean` says what True means.

    Raises:
        TypeError: if the values are of another kind.
    """
    if isinstance(values, torch.Tensor):
        array: Array = values.detach().clone()
    else:
        array = as_array(name, values)
        if array.size == 0 and not isinstance(values, np.ndarray):
            array = array.astype(bool if boolean else np.int64)  # an empty list has no dtype
    right = array.dtype in (np.dtype(bool), torch.bool) if boolean else is_integer(array)
    if not right:
        wanted = f"boolean ({boolean})" if boolean else "integer"
        raise TypeError(f"{name}: expected {wanted} values; got dtype {array.dtype}")
    return array


def _positions(name: str, positions: Positions) -> Array:
    """Positions as a checked integer array, [T] or [B, T] (NumPy, unless a tensor came)."""
    if isinstance(positions, (int, np.integer)) and not isinstance(positions, bool):
        return np.arange(check_count(name, int(positions), 0))
    if not isinstance(positions, (np.ndarray, torch.Tensor, Sequence)) or isinstance(
        positions, str
    ):
        raise TypeError(
            f"{name}: expected a count or an array of integer positions; "
            f"got {type(positions).__name__}"
        )
    array: Array
    if isinstance(positions, (np.ndarray, torch.Tensor)):
        array = positions
    else:
        array = as_array(name, positions)
        array = array if array.size else array.astype(np.int64)  # an empty list has no dtype
    if not is_integer(array):
        raise TypeError(f"{name}: expected integer positions; got dtype {array.dtype}")
    if array.ndim not in (1, 2):
        raise ValueError(f"{name}: expected shape [T] or [B, T]; got {list(array.shape)}")
    least = 0 if array.ndim == 1 else -1
    if _readable(array) and array.min() < least:
        filled = ", or -1 where a sequence has none" if least else ""
        raise ValueError(
            f"{name}: positions are absolute, so at least 0{filled}; got {int(array.min())}"
        )
    return array


def _readable(array: Array) -> bool:
    """Whether there are values that can be looked at without waiting for a device."""
    return not (isinstance(array, torch.Tensor) and array.device.type != "cpu") and 0 not in (
        array.shape
    )


def _shorter(a: int | None, b: int | None) -> int | None:
    return min(a, b) if a is not None and b is not None else b if a is None else a
