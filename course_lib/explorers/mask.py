"""The mask explorer: who may attend to whom, and what the mask does to scores (chapter 2)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from course_lib.explorers.base import (
    Explorer,
    State,
    chosen,
    labels,
    numbers,
    one_of,
    token,
    whole,
)
from course_lib.figures.plot import Figure, grid
from course_lib.figures.traces import mask_view
from course_lib.masks import Mask, causal
from course_lib.trace import Trace, trace
from course_lib.validate import Array

VIEWS = ("mask", "raw", "scaled", "masked", "weights")
#: Numbers of a row that are spoken; the others are in the picture.
_MOST_IN_WORDS = 8


class MaskExplorer(Explorer):
    """One query after the other meets the mask: click a token, build it row by row, switch views.

    >>> from course_lib.example import TOKENS, K, Q
    >>> e = MaskExplorer(TOKENS, Q, K, row="sat", view="weights")
    >>> e.row, e.view
    (2, 'weights')
    >>> e.row = "cat"  # the picture follows; e.observe(f, "row") hears of clicks
    >>> print(e.words())
    cat may attend to The and cat; sat, on and mat are blocked. Weights: The 0.82, cat 0.18.

    Args:
        tokens: T labels, at most 64.
        Q: queries, [T, d_k], floating, NumPy or torch; without Q and K there is the mask alone.
        K: keys, [T, d_k].
        V: values, [T, d_v]; if given, the output of the chosen query is shown with its weights.
        mask: a `Mask` or a boolean [T, T] array, True = may attend; causal if not given. A row
            that may attend to nothing gets weights of zero.
        row: the chosen query, by text or position.
        column: the key whose numbers are shown, or None.
        view: "mask", "raw" (dot products), "scaled", "masked" or "weights".
        step: how many rows are drawn, from 1 to T; all if not given.

    Raises:
        TypeError: for arrays that are not floating, or only one of Q and K.
        ValueError: for shapes that do not fit, or a state out of range.
    """

    script = "mask"
    row = State(0, token())
    column = State(None, token(optional=True))
    view = State("mask", one_of(*VIEWS))
    step = State(1, whole(1, lambda e: len(e.tokens)))

    def __init__(
        self,
        tokens: Sequence[Any],
        Q: Array | None = None,
        K: Array | None = None,
        V: Array | None = None,
        mask: Mask | Array | None = None,
        *,
        row: str | int = 0,
        column: str | int | None = None,
        view: str = "mask",
        step: int | None = None,
    ) -> None:
        self.tokens = labels(tokens)
        if (Q is None) != (K is None) or (Q is None and V is not None):
            raise TypeError("Q, K: expected both or neither (and V only with them)")
        #: The views that this explorer has: without Q and K there is nothing but the mask.
        self.views = VIEWS if Q is not None else VIEWS[:1]
        n = len(self.tokens)
        q, k = (np.zeros((n, 1)), np.zeros((n, 1))) if Q is None or K is None else (Q, K)
        self.trace = trace(
            q, k, k if V is None else V, causal() if mask is None else mask, self.tokens,
            empty_rows="zeros",
        )  # fmt: skip
        data = {
            "tokens": self.tokens,
            "views": self.views,
            "mask": numbers(self.trace.mask),
            "words": {v: [self._sentence(v, i) for i in range(n)] for v in self.views},
        }
        if Q is not None:
            data |= cell_numbers(self.trace)
        if V is not None:
            data["output"] = numbers(self.trace.output)
        super().__init__(data, row=row, column=column, view=view, step=n if step is None else step)

    def words(self) -> str:
        """What the chosen query may attend to, and its numbers in the chosen view."""
        return self.data["words"][self.view][self.row]

    def _sentence(self, view: str, row: int) -> str:
        text = attends(self.trace, row)
        if view == "mask":
            return text
        line = getattr(self.trace, view)[row]
        shown = [
            f"{key} {x + 0.0:.2f}"
            for key, x, visible in zip(self.tokens, line, self.trace.mask[row], strict=True)
            if visible or view in ("raw", "scaled")
        ]
        if len(shown) > _MOST_IN_WORDS:
            shown = [*shown[:_MOST_IN_WORDS], f"and {len(shown) - _MOST_IN_WORDS} more"]
        kind = {"raw": "Dot products", "weights": "Weights"}.get(view, "Scaled scores")
        return f"{text} {kind}: {', '.join(shown) or 'none'}."

    def figure(self) -> Figure:
        """The static view: mask, scores and weights, the chosen row framed."""
        if len(self.views) > 1:
            return mask_view(self.trace, self.row)
        return grid(
            self.trace.mask, self.tokens, self.tokens, kind="mask",
            title="who may attend to whom", mark_row=self.row,
        )  # fmt: skip

    def picture(self) -> str:
        """The figure with its description."""
        return self.figure()._repr_html_()


def attends(t: Trace, row: int) -> str:
    """One query under the mask, in words: "sat may attend to The, cat and sat; on is blocked."."""
    blocked = chosen(t.tokens, ~t.mask[row])
    verb = "is" if (~t.mask[row]).sum() <= 1 else "are"
    return (
        f"{t.tokens[row]} may attend to {chosen(t.tokens, t.mask[row])}; {blocked} {verb} blocked."
    )


def cell_numbers(t: Trace) -> dict[str, Any]:
    """Every number behind the cells of a trace, as JSON: vectors, scores, powers, sums, weights."""
    powers, shifts = zip(*(t.powers(i) for i in range(len(t.tokens))), strict=True)
    finite = t.scaled[np.isfinite(t.scaled)]
    return {
        "q": numbers(t.q),
        "k": numbers(t.k),
        "raw": numbers(t.raw),
        "scaled": numbers(t.scaled),
        "weights": numbers(t.weights),
        "range": [float(finite.min()), float(finite.max())] if finite.size else [0.0, 0.0],
        "powers": numbers(powers),
        "shifts": numbers(shifts),
        "sums": numbers([p.sum() for p in powers]),
    }
