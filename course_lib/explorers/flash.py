"""`FlashExplorer`: attention tile by tile, with the online softmax of one row (chapter 7)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from course_lib.attention import attention
from course_lib.example import TOKENS, K, Q, V
from course_lib.explorers.base import (
    MOST_TOKENS,
    Explorer,
    State,
    labels,
    numbers,
    token,
    whole,
)
from course_lib.figures.flash import flash_view, format_number
from course_lib.flash.online import Floats, as_floats, online_trace
from course_lib.lesson import listed
from course_lib.masks import Mask, Tile, causal
from course_lib.validate import Array, check_count

#: Entries of a value vector that are shown; the others are computed all the same.
_ENTRIES = 8


class FlashExplorer(Explorer):
    """The tiles of attention in the order of their visits, and one row's running numbers.

    >>> e = FlashExplorer()  # the running example, causal, tiles of 2 by 2
    >>> e.row = "sat"
    >>> e.step = 3

    Args:
        tokens: T labels; those of the running example if none of tokens, q, k, v is given, else
            "0", "1", ...
        q: queries, floating, [T, d], at most 64.
        k: keys, [T, d].
        v: values, [T, d_v].
        mask: a rule; `causal()` if not given.
        block_q: queries a tile, 1..T; 2 if not given.
        block_k: keys a tile, 1..T; likewise.
        row: the query to follow, by position or text; the last one if not given.
        step: how many tiles have been visited.

    Raises:
        TypeError: if q, k, v are not floating arrays of one kind, or `mask` no `Mask`.
        ValueError: if shapes do not fit or a value is out of range.
    """

    script = "flash"
    row = State(0, token())
    step = State(0, whole(0, lambda explorer: len(explorer.trace.order)))

    def __init__(
        self,
        tokens: Sequence[Any] | None = None,
        q: Array | None = None,
        k: Array | None = None,
        v: Array | None = None,
        mask: Mask | None = None,
        *,
        block_q: int | None = None,
        block_k: int | None = None,
        row: int | str | None = None,
        step: int = 0,
    ) -> None:
        if q is None or k is None or v is None:
            if not (q is None and k is None and v is None):
                raise ValueError("q, k, v: expected all three or none; got some")
            q, k, v, tokens = Q, K, V, TOKENS if tokens is None else tokens
        queries, keys, values = as_floats(q=q, k=k, v=v)
        if len(queries) > MOST_TOKENS:
            raise ValueError(f"q: expected at most {MOST_TOKENS} queries; got {len(queries)}")
        self.tokens = labels(range(len(queries)) if tokens is None else tokens)
        if len(self.tokens) != len(queries):
            raise ValueError(
                f"tokens: expected {len(queries)}, one a query; got {len(self.tokens)}"
            )
        block_q, block_k = (
            min(2, len(self.tokens)) if block is None else block for block in (block_q, block_k)
        )
        for name, block in (("block_q", block_q), ("block_k", block_k)):
            if check_count(name, block, 1) > len(self.tokens):
                raise ValueError(f"{name}: expected at most {len(self.tokens)}; got {block}")
        mask = causal() if mask is None else mask
        self.trace = online_trace(queries, keys, values, mask, block_q, block_k)
        self._block_q, self._block_k, self._v = block_q, block_k, values
        full, _ = attention(queries, keys, values, mask, empty_rows="zeros")
        self._gap = float(np.abs(full - self.trace.output).max())
        self._cards = [self._row_cards(r) for r in range(len(self.tokens))]
        data = {
            "tokens": self.tokens,
            "blocks": [block_q, block_k],
            "order": [list(tile) for tile in self.trace.order],
            "scores": numbers(self.trace.scores),
            "names": ["max m", "sum l", *(f"acc {d}" for d in range(values.shape[1]))][
                : 2 + _ENTRIES
            ],
            "steps": [self._step_words(s) for s in range(len(self.trace.order) + 1)],
            "rows": self._cards,
            "waiting": [
                f"Row {name} has met no tile yet."
                if cards
                else f"Row {name} sees nothing: its tiles are all skipped, its output is 0."
                for name, cards in zip(self.tokens, self._cards, strict=True)
            ],
            "mask": repr(mask),
        }
        super().__init__(data, row=len(self.tokens) - 1 if row is None else row, step=step)

    def words(self) -> str:
        """The tile, and what it did to the row."""
        met = [card for card in self._cards[self.row] if card["visit"] <= self.step]
        row = met[-1]["words"] if met else self.data["waiting"][self.row]
        return f"{self.data['steps'][self.step]} {row}"

    def picture(self) -> str:
        """All tiles with the order of their visits, and all steps of the row."""
        return flash_view(self.trace, self.tokens, self.row, self._block_q, self._block_k, [
            card["words"] for card in self._cards[self.row]
        ])._repr_html_()  # fmt: skip

    # --- inside ------------------------------------------------------------------------------

    def _row_cards(self, r: int) -> list[dict[str, Any]]:
        """What each visited tile does to row r: before, factor, what is added, after, words."""
        t, size, cards = self.trace, self._block_k, []
        visits = [(n, j) for n, (i, j) in enumerate(t.order, 1) if i == r // self._block_q]
        for n, j in visits:
            s, v = (x[j * size : (j + 1) * size] for x in (t.scores[r], self._v))
            peak = 0.0 if np.isinf(t.m[r, j + 1]) else t.m[r, j + 1]
            p = np.exp(s - peak)
            cards.append(
                {
                    "visit": n,
                    "before": _column(t.m[r, j], t.l[r, j], t.acc[r, j]),
                    "factor": float(np.exp(t.m[r, j] - peak)),
                    "added": _column(s.max(), p.sum(), p @ v),
                    "after": _column(t.m[r, j + 1], t.l[r, j + 1], t.acc[r, j + 1]),
                    "words": self._card_words(r, j, n == visits[-1][0]),
                }
            )
        return cards

    def _card_words(self, r: int, j: int, last: bool) -> str:
        t, name = self.trace, self.tokens[r]
        old, new = t.m[r, j], t.m[r, j + 1]
        if np.isinf(new):
            return f"Row {name} sees nothing here: its sum stays 0."
        if np.isinf(old):
            change = f"the maximum starts at {format_number(new)}"
        elif new > old:
            change = (
                f"the maximum rises from {format_number(old)} to {format_number(new)}, so what "
                f"was summed before is multiplied by exp({format_number(old)} - "
                f"{format_number(new)}) = "
                f"{format_number(np.exp(old - new))}"
            )
        else:
            change = f"the maximum stays {format_number(new)}, so nothing is rescaled"
        words = f"Row {name}: {change}; the sum is now {format_number(t.l[r, j + 1])}."
        if last:
            close = self._gap < 1e-9
            words += (
                f" Last tile of the row: accumulator / sum = {_vector(t.output[r])}, "
                f"{'equal to' if close else 'NOT equal to'} the full softmax."
            )
        return words

    def _step_words(self, step: int) -> str:
        order, tiles = self.trace.order, self.trace.tiles
        skipped = int((tiles == Tile.EMPTY).sum())
        if step == 0:
            because = ", because nobody may see anything in them" if skipped else ""
            return (
                f"Nothing is computed yet: {len(order)} of {tiles.size} tiles to visit, "
                f"{skipped} skipped{because}."
            )
        i, j = order[step - 1]
        queries = self.tokens[i * self._block_q : (i + 1) * self._block_q]
        keys = self.tokens[j * self._block_k : (j + 1) * self._block_k]
        kind = "all visible" if tiles[i, j] == Tile.FULL else "masked cell by cell"
        return (
            f"Tile {step} of {len(order)} ({kind}): queries {_range(queries)}, keys {_range(keys)}."
        )


def _column(m: float, l: float, acc: Floats) -> list[Any]:  # noqa: E741
    return numbers([m, l, *acc[:_ENTRIES]])


def _range(names: Sequence[str]) -> str:
    return listed(names) if len(names) < 4 else f"{names[0]} to {names[-1]}"


def _vector(values: Floats) -> str:
    shown = ", ".join(map(format_number, values[:_ENTRIES]))
    return f"[{shown}{', ...' if len(values) > _ENTRIES else ''}]"
