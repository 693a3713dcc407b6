"""The compare explorer: standard and causal attention side by side (chapter 3)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import traitlets

from course_lib.explorers.base import (
    MOST_TOKENS,
    Explorer,
    State,
    chosen,
    labels,
    numbers,
    one_of,
    token,
    whole,
)
from course_lib.figures.plot import Figure
from course_lib.figures.traces import compare_view
from course_lib.masks import Mask, causal
from course_lib.trace import Trace, trace
from course_lib.validate import Array

VIEWS = ("weights", "outputs")


def _last_column(e: "CompareExplorer") -> int:
    return len(e.tokens if e.view == "weights" else e.entries) - 1


class CompareExplorer(Explorer):
    """The same attention without and with the mask: weights or outputs, and their difference.

    >>> from course_lib.example import TOKENS, K, Q, V
    >>> e = CompareExplorer(TOKENS, Q, K, V, row="cat")
    >>> e.view = "outputs"
    >>> print(e.words())
    cat: without what sat, on and mat hand over, the output changes most in entry d0, from 0.46 to 0.82.

    Args:
        tokens: T labels, at most 64.
        Q: queries, [T, d_k], floating, NumPy or torch.
        K: keys, [T, d_k].
        V: values, [T, d_v]; the first 64 entries are shown.
        mask: a `Mask` or a boolean [T, T] array, True = may attend; causal if not given. A row
            that may attend to nothing gets zeros.
        row: the chosen query, by text or position.
        column: the key (view "weights") or output entry ("outputs") whose numbers are shown, as a
            position, or None.
        view: "weights" or "outputs".

    Raises:
        TypeError: for arrays that are not floating.
        ValueError: for shapes that do not fit, or a state out of range.
    """  # noqa: E501 (the example prints a long line)

    script = "compare"
    row = State(0, token())
    view = State("weights", one_of(*VIEWS))
    column = State(None, whole(0, _last_column, optional=True))

    def __init__(
        self,
        tokens: Sequence[Any],
        Q: Array,
        K: Array,
        V: Array,
        mask: Mask | Array | None = None,
        *,
        row: str | int = 0,
        column: int | None = None,
        view: str = "weights",
    ) -> None:
        self.tokens = labels(tokens)
        rule = causal() if mask is None else mask
        self.standard = trace(Q, K, V, None, self.tokens)
        self.causal = trace(Q, K, V, rule, self.tokens, empty_rows="zeros")
        n, shown = len(self.tokens), slice(MOST_TOKENS)
        self.entries = [f"d{j}" for j in range(self.causal.v.shape[1])][shown]
        change = self.causal.output - self.standard.output
        seen = np.abs([x[:, shown] for x in (self.causal.output, self.standard.output, change)])
        data = {
            "tokens": self.tokens,
            "entries": self.entries,
            "mask": numbers(self.causal.mask),
            "v": numbers(self.causal.v[:, shown]),
            # What the darkest colour means, and whether a sign needs a colour of its own.
            "scale": float(np.max(seen, initial=1.0, where=np.isfinite(seen))),
            "signed": bool(min(self.causal.output.min(), self.standard.output.min()) < 0),
            "standard": _side(self.standard),
            "causal": _side(self.causal),
            "difference": {
                "weights": numbers(self.causal.weights - self.standard.weights),
                "outputs": numbers(change[:, shown]),
            },
            "words": {view: [self._sentence(view, i) for i in range(n)] for view in VIEWS},
        }
        super().__init__(data, row=row, view=view, column=column)

    @traitlets.observe("view")
    def _forget_column(self, _change: Any) -> None:
        if not self.asked:
            self.column = None  # a key is not an output entry

    def words(self) -> str:
        """What the mask changes for the chosen query."""
        return self.data["words"][self.view][self.row]

    def figure(self) -> Figure:
        """The static view: weights and outputs of both, and their differences."""
        return compare_view(self.standard, self.causal)

    def picture(self) -> str:
        """The figure with its description."""
        return self.figure()._repr_html_()

    def _sentence(self, view: str, i: int) -> str:
        visible, name = self.causal.mask[i], self.tokens[i]
        blocked = chosen(self.tokens, ~visible)
        if visible.all():
            return f"{name}: the mask blocks nothing in this row, so both are the same."
        if view == "weights":
            lost = self.standard.weights[i, ~visible].sum()
            seen = chosen(self.tokens, visible)
            return (
                f"{name}: standard attention gives {lost:.2f} of its weight to {blocked}; "
                f"causal attention shares all of it among {seen}."
            )
        before, after = self.standard.output[i], self.causal.output[i]
        most = int(np.round(np.abs(after - before), 9).argmax())  # the first of equals, everywhere
        return (
            f"{name}: without what {blocked} {'hands' if (~visible).sum() == 1 else 'hand'} "
            f"over, the output changes most in entry d{most}, from {before[most]:.2f} to "
            f"{after[most]:.2f}."
        )


def _side(t: Trace) -> dict[str, Any]:
    powers, shifts = zip(*(t.powers(i) for i in range(len(t.tokens))), strict=True)
    return {
        "weights": numbers(t.weights),
        "outputs": numbers(t.output[:, :MOST_TOKENS]),
        "powers": numbers(powers),
        "sums": numbers([p.sum() for p in powers]),
        "shifts": numbers(shifts),
    }
