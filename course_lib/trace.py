"""Every table of one small attention computation, to be checked by hand (chapters 2, 3 and 6)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from course_lib.attention import EmptyRows, attention, matrix_of, scores, visible_cells
from course_lib.masks import Mask
from course_lib.validate import Array, check_floating, is_torch, to_numpy

#: Above this score `Trace.explain` subtracts the row's maximum before exp, to print short numbers.
_SAFE_EXPONENT = 10.0


@dataclass(frozen=True)
class Trace:
    """Every table of one small attention computation; see `trace`.

    Attributes:
        tokens: labels of the T positions.
        q: queries, [T, d_k].
        k: keys, [T, d_k].
        v: values, [T, d_v].
        mask: bool [T, T], True = may attend.
        raw: dot products, [T, T].
        scaled: raw / sqrt(d_k), [T, T].
        masked: scaled, with -inf where blocked, [T, T].
        weights: softmax of masked, [T, T].
        output: weights @ v, [T, d_v].
    """

    tokens: tuple[str, ...]
    q: NDArray[Any]
    k: NDArray[Any]
    v: NDArray[Any]
    mask: NDArray[Any]
    raw: NDArray[Any]
    scaled: NDArray[Any]
    masked: NDArray[Any]
    weights: NDArray[Any]
    output: NDArray[Any]

    def row(self, token: str | int) -> int:
        """The position of a token, given by its text (the first that matches) or as a number.

        Raises:
            ValueError: if there is no such token.
        """
        if isinstance(token, str) and token in self.tokens:
            return self.tokens.index(token)
        if not isinstance(token, (str, bool)) and token in range(len(self.tokens)):
            return int(token)
        raise ValueError(
            f"token: expected one of {', '.join(self.tokens)} or a position from 0 to "
            f"{len(self.tokens) - 1}; got {token!r}"
        )

    def powers(self, token: str | int) -> tuple[NDArray[np.float64], float]:
        """exp of a query's scores: what softmax divides by its sum.

        Args:
            token: the query, by text or position.

        Returns:
            ([T], 0 where blocked; the number that every score was lowered by, so that exp stays
            finite: 0 unless the row's largest score is far from 0).
        """
        i = self.row(token)
        visible = self.mask[i]
        peak = float(self.scaled[i, visible].max()) if visible.any() else 0.0
        shift = peak if _SAFE_EXPONENT < abs(peak) < math.inf else 0.0  # exp overflows near 710
        return np.exp(np.where(visible, self.scaled[i] - shift, -np.inf)), shift

    def explain(self, token: str | int) -> str:
        """The five steps of one query, written out so that they can be checked by hand."""
        i = self.row(token)
        visible = np.flatnonzero(self.mask[i])
        names = [self.tokens[j] for j in visible]
        blocked = [t for j, t in enumerate(self.tokens) if not self.mask[i, j]]
        root = math.sqrt(self.q.shape[-1])
        lines = [
            f"Query {i}, {self.tokens[i]!r}: q = {_vector(self.q[i])}",
            f"may attend to: {', '.join(names) or 'nothing'}",
            f"blocked:       {', '.join(blocked) or 'nothing'}",
            "",
            f"Steps 1 to 3: dot products with the keys, divided by sqrt(d_k) = {root:.4g}, masked",
        ]
        width = max(len(t) for t in self.tokens)
        for j, name in enumerate(self.tokens):
            products = " + ".join(f"{a:g}*{b:g}" for a, b in zip(self.q[i], self.k[j], strict=True))
            end = f"{self.scaled[i, j]:.4f}" if self.mask[i, j] else "blocked, -inf"
            lines.append(f"  {name:<{width}}  {products} = {self.raw[i, j]:g}  ->  {end}")
        lines += ["", "Step 4: softmax over what is visible"]
        if len(visible) == 0:
            return "\n".join([*lines, "  nothing is visible: all weights are 0"])
        powers, shift = self.powers(i)
        powers = powers[visible]
        if shift:
            lines.append(f"  every score less the largest, {shift:.4f}, so that exp stays finite")
        lines.append(f"  sum of exp: {' + '.join(f'{p:.4f}' for p in powers)} = {powers.sum():.4f}")
        for name, p, weight in zip(names, powers, self.weights[i, visible], strict=True):
            share = f"{p:.4f} / {powers.sum():.4f}"
            lines.append(f"  {name:<{width}}  {share} = {weight:.4f}")
        lines += [
            "",
            "Step 5: the weighted sum of the visible values",
            f"  output = {_vector(self.output[i], 4)}",
        ]
        return "\n".join(lines)


def trace(
    q: Array,
    k: Array,
    v: Array,
    mask: Mask | Array | None = None,
    tokens: Sequence[Any] | None = None,
    *,
    empty_rows: EmptyRows = "error",
) -> Trace:
    """Run `attention` on one small sequence and keep every table.

    Args:
        q: queries, shape [T, d_k]; any floating array of NumPy or torch.
        k: keys, shape [T, d_k].
        v: values, shape [T, d_v].
        mask: as for `attention`; None for standard attention.
        tokens: T labels; "0", "1", ... if not given.
        empty_rows: see `masked_softmax`.

    Returns:
        The `Trace`, in NumPy float64.

    Raises:
        TypeError: if an array is not floating.
        ValueError: if the arrays are not 2-D or their lengths differ, or for an empty row that
            nobody asked for.
    """
    for name, array in (("q", q), ("k", k), ("v", v)):
        check_floating(name, array)
        if array.ndim != 2 or len(array) != len(q):
            raise ValueError(
                f"{name}: expected shape [T, d] with the T of q; got {list(array.shape)}"
            )
    labels = tuple(map(str, range(len(q)) if tokens is None else tokens))
    if len(labels) != len(q):
        raise ValueError(f"tokens: expected {len(q)} labels; got {len(labels)}")
    q, k, v = (to_numpy(x).astype(np.float64) for x in (q, k, v))
    raw, scaled = to_numpy(scores(q, k, scale=1.0)), to_numpy(scores(q, k))
    mask = matrix_of(mask, scaled)
    visible = visible_cells(scaled, to_numpy(mask) if is_torch(mask) else mask)
    output, weights = map(to_numpy, attention(q, k, v, visible, empty_rows=empty_rows))
    masked = np.where(visible, scaled, -np.inf)
    return Trace(labels, q, k, v, to_numpy(visible), raw, scaled, masked, weights, output)


def _vector(values: NDArray[np.float64], digits: int | None = None) -> str:
    numbers = (f"{x:g}" if digits is None else f"{x:.{digits}f}" for x in values)
    return f"[{', '.join(numbers)}]"
