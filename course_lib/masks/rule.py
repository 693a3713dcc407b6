"""`Mask`: a rule on positions, and everything that follows from it (chapter 2 onwards)."""

from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray

from course_lib.masks.conventions import to_additive
from course_lib.validate import Array, as_array, check_count, is_integer

#: A count n (meaning positions 0..n-1) or a 1-D integer array of absolute positions.
Positions = int | Sequence[int] | Array
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

    Args:
        may_attend: predicate `may_attend(q_pos, k_pos) -> bool`; broadcasting integer arrays of
            NumPy or torch come in, a boolean array goes out (True = may attend).
        expression: how the rule is written in code; `repr` shows it.
        words: the rule in words, for `describe`; the expression if not given.

    Attributes:
        batch: number of sequences B whose data the rule holds, or None.
        length: number of positions that this data covers, or None if it does not matter.
        least_keys: keys that must be there before any query can be answered rightly: the length
            of a prefix, whose rows see each other. `attention` refuses fewer.
        never_ahead: whether the rule is known to block every later key, so that a cache need not
            ask. False means that it has to be asked.
        is_causal: whether the rule is known to be k <= q and nothing else, for which kernels have
            a path without a matrix.
    """

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
        self.length: int | None = None
        self.least_keys = 0
        self.never_ahead = self.is_causal = False
        self._device: torch.device | None = None

    @classmethod
    def per_sequence(
        cls,
        rule: Rule,
        expression: str,
        words: str,
        *,
        batch: int | None,
        length: int | None,
        device: torch.device | None = None,
        least_keys: int = 0,
        never_ahead: bool = False,
    ) -> "Mask":
        """A rule that looks up data of each sequence (document ids, padding, prefix lengths).

        Args:
            rule: predicate `rule(batch_index, q_pos, k_pos) -> bool`.
            expression: how the rule is written in code.
            words: the rule in words.
            batch: number of sequences B, or None if the data is shared by all.
            length: number of positions that the data covers, or None if it does not matter.
            device: where the data lives if it is a torch tensor, else None (NumPy).
            least_keys: see the attribute.
            never_ahead: see the attribute.

        Returns:
            The mask. Its matrices have shape [B, 1, Tq, Tk], or [Tq, Tk] if `batch` is None.
        """
        mask = cls(lambda q, k: rule(0, q, k), expression, words)
        mask._rule, mask.batch, mask.length, mask._device = rule, batch, length, device
        mask.least_keys, mask.never_ahead = least_keys, never_ahead
        return mask

    # --- derived forms ---------------------------------------------------------------------

    def matrix(self, q_pos: Positions, k_pos: Positions | None = None) -> Array:
        """The dense boolean mask, True = may attend.

        Args:
            q_pos: positions of the queries: a count n (meaning 0..n-1) or a 1-D integer array.
            k_pos: positions of the keys, likewise; the same as `q_pos` if not given.

        Returns:
            Bool, shape [Tq, Tk], or [B, 1, Tq, Tk] for a rule with per-sequence data. A torch
            tensor if a position array or the rule's data is one (on its device), else NumPy.

        Raises:
            TypeError: if positions are not integers or the rule does not return booleans.
            ValueError: if positions are negative, not 1-D, or beyond the rule's data.
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
        return self.matrix(torch.as_tensor(_positions("q_pos", q_pos), device=device), k_pos)

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
        return to_additive(_to_numpy(self.matrix(q_pos, k_pos)), dtype)

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
            with [B, 1] in front for a rule with per-sequence data.
        """
        block_q, block_k = check_count("block_q", block_q, 1), check_count("block_k", block_k, 1)
        q = _to_numpy(_positions("q_pos", q_pos))
        k = q if k_pos is None else _to_numpy(_positions("k_pos", k_pos))
        lead = () if self.batch is None else (self.batch, 1)
        starts = np.arange(0, len(k), block_k)
        rows = [np.zeros((*lead, 0, len(starts)), np.int8)]
        for first in range(0, len(q), block_q):
            if len(starts) == 0:
                rows.append(np.zeros((*lead, 1, 0), np.int8))
                continue
            block = self._dense(q[first : first + block_q], k)
            some = np.logical_or.reduceat(block.any(axis=-2), starts, axis=-1)
            every = np.logical_and.reduceat(block.all(axis=-2), starts, axis=-1)
            row = np.where(every, Tile.FULL, np.where(some, Tile.PARTIAL, Tile.EMPTY))
            rows.append(row[..., None, :].astype(np.int8))
        return np.concatenate(rows, axis=-2)

    @property
    def mask_mod(self) -> Callable[[Any, Any, Any, Any], Any]:
        """The rule as FlexAttention wants it: `create_block_mask(mask.mask_mod, B, H, Tq, Tk)`.

        FlexAttention counts queries from 0; with a cache of n keys pass `mask.mask_mod_from(n)`.
        Source: J. Dong et al., "FlexAttention", 2024, arXiv:2412.05496.
        """
        return self.mask_mod_from(0)

    def mask_mod_from(self, first_query: int) -> Callable[[Any, Any, Any, Any], Any]:
        """`mask_mod` for queries whose absolute positions start at `first_query`."""
        first_query = check_count("first_query", first_query, 0)
        return lambda b, h, q_idx, kv_idx: self._rule(b, q_idx + first_query, kv_idx)

    def describe(self) -> str:
        """The rule in one sentence, for people."""
        return f"{self._expression}: a query may attend to {self._words}."

    def draw(self, q_pos: Positions, k_pos: Positions | None = None) -> str:
        """The matrix as text, one line a query: `#` = may attend, `.` = blocked."""
        matrix = _to_numpy(self.matrix(q_pos, k_pos))
        if self.batch is None:
            return _draw(matrix)
        return "\n\n".join(f"sequence {b}\n{_draw(one)}" for b, one in enumerate(matrix[:, 0]))

    # --- composition -----------------------------------------------------------------------

    def __and__(self, other: "Mask") -> "Mask":
        """Both rules must allow it."""
        joined = self._combine(other, lambda a, b: a & b, "&", "and")
        if joined is not NotImplemented:
            joined.never_ahead = self.never_ahead or other.never_ahead
        return joined

    def __or__(self, other: "Mask") -> "Mask":
        """At least one rule must allow it."""
        joined = self._combine(other, lambda a, b: a | b, "|", "or")
        if joined is not NotImplemented:
            joined.never_ahead = self.never_ahead and other.never_ahead
        return joined

    def __invert__(self) -> "Mask":
        """Everything that the rule forbids."""
        return self.per_sequence(
            lambda b, q, k: ~self._rule(b, q, k),
            f"~{self._bracketed()}",
            f"anything but ({self._words})",
            batch=self.batch,
            length=self.length,
            device=self._device,
            least_keys=self.least_keys,
        )

    def __bool__(self) -> bool:
        raise TypeError(f"{self} is neither true nor false; combine masks with &, | and ~")

    def __repr__(self) -> str:
        return self._expression

    # --- inside ----------------------------------------------------------------------------

    def _combine(
        self, other: "Mask", join: Callable[[Any, Any], Any], sign: str, word: str
    ) -> "Mask":
        if not isinstance(other, Mask):
            return NotImplemented
        if None not in (self.batch, other.batch) and self.batch != other.batch:
            raise ValueError(
                f"cannot combine {self} of batch size {self.batch} "
                f"with {other} of batch size {other.batch}"
            )
        lengths = [n for n in (self.length, other.length) if n is not None]
        return self.per_sequence(
            lambda b, q, k: join(self._rule(b, q, k), other._rule(b, q, k)),
            f"{self._bracketed()} {sign} {other._bracketed()}",
            f"({self._words}) {word} ({other._words})",
            batch=self.batch if other.batch is None else other.batch,
            length=min(lengths) if lengths else None,
            device=self._device or other._device,
            least_keys=max(self.least_keys, other.least_keys),
        )

    def _bracketed(self) -> str:
        compound = " & " in self._expression or " | " in self._expression
        return f"({self._expression})" if compound else self._expression

    def _dense(self, q: Array, k: Array) -> Array:
        """The matrix for 1-D position arrays that are of one library and device."""
        for name, positions in (("q_pos", q), ("k_pos", k)):
            if self.length is not None and len(positions) and int(positions.max()) >= self.length:
                raise ValueError(
                    f"{name}: position {int(positions.max())} is beyond the data of {self}, "
                    f"which covers positions 0 to {self.length - 1}"
                )
        q, k = q[:, None], k[None, :]
        batch: Any = 0
        if self.batch is not None:
            batch = np.arange(self.batch)[:, None, None, None]
            if isinstance(q, torch.Tensor):
                batch = torch.as_tensor(batch, device=q.device)
        allowed = self._rule(batch, q, k)
        if getattr(allowed, "dtype", None) not in (np.dtype(bool), torch.bool):
            raise TypeError(
                f"may_attend of {self}: expected a boolean array, True = may attend; got "
                f"{getattr(allowed, 'dtype', type(allowed).__name__)}"
            )
        # A rule may look at queries or keys alone, so stretch it over both (a fresh array).
        stretched = allowed & (q >= 0) & (k >= 0)
        if self.batch is None:
            return stretched
        return stretched | (batch < 0)  # shared rules inside a batched one: [B, 1, Tq, Tk]


def lookup(data: Array, like: Any) -> Array:
    """Per-sequence `data` in the library and on the device of the positions `like`."""
    if isinstance(like, torch.Tensor):
        return torch.as_tensor(data, device=like.device)
    return _to_numpy(data)


def _positions(name: str, positions: Positions) -> Array:
    """Positions as a checked 1-D integer array (NumPy, unless a tensor came)."""
    if isinstance(positions, (int, np.integer)) and not isinstance(positions, bool):
        return np.arange(check_count(name, int(positions), 0))
    if not isinstance(positions, (np.ndarray, torch.Tensor, Sequence)) or isinstance(
        positions, str
    ):
        raise TypeError(
            f"{name}: expected a count or a 1-D array of integer positions; "
            f"got {type(positions).__name__}"
        )
    array = positions if isinstance(positions, torch.Tensor) else as_array(name, positions)
    if isinstance(array, np.ndarray) and array.size == 0 and not isinstance(positions, np.ndarray):
        array = array.astype(np.int64)  # an empty list has no dtype of its own
    if not is_integer(array):
        raise TypeError(f"{name}: expected integer positions; got dtype {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"{name}: expected a 1-D array; got shape {tuple(array.shape)}")
    if len(array) and int(array.min()) < 0:
        raise ValueError(f"{name}: positions are absolute, so at least 0; got {int(array.min())}")
    return array


def _to_numpy(array: Array) -> NDArray[Any]:
    return array.detach().cpu().numpy() if isinstance(array, torch.Tensor) else np.asarray(array)


def _draw(matrix: NDArray[np.bool_]) -> str:
    def line(row: NDArray[np.bool_]) -> Iterator[str]:
        return ("#" if cell else "." for cell in row)

    return "\n".join(" ".join(line(row)) for row in matrix)
