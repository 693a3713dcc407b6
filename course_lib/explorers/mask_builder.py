"""`MaskBuilder`: put a mask together from rules and see what it costs (chapter 6).

A mask is built from the top down: each rule is joined to everything above it, so brackets follow
from the order. JavaScript computes the picture by itself, so that it moves without a kernel (on
GitHub's side of the world and on Colab); `tests/browser` compare it with `Mask` on random rules.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from course_lib.explorers.base import MOST_TOKENS, Explorer, State, labels, whole
from course_lib.figures.masks import builder_view, visited_share
from course_lib.masks import (
    Mask,
    Tile,
    causal,
    full,
    not_padding,
    prefix_lm,
    same_document,
    sinks,
    sliding_window,
)

#: rule -> what its number means (None: it has none), least number, words for the list.
RULES: dict[str, tuple[str | None, int, str]] = {
    "causal": (None, 0, "its own position and earlier ones"),
    "prefix_lm": ("prefix", 0, "the prefix, and earlier ones"),
    "sliding_window": ("width", 1, "the last few, its own included"),
    "sinks": ("keys", 0, "the first few"),
    "same_document": ("documents", 1, "its own document"),
    "not_padding": ("pads at the left", 0, "real tokens"),
    "full": (None, 0, "everything"),
}
JOINS = ("and", "or", "and not")
#: Masks to begin with; the static view shows them side by side.
EXAMPLES: dict[str, list[str]] = {
    "causal": ["causal()"],
    "prefix-LM": ["prefix_lm(10)"],
    "sliding window": ["sliding_window(6)"],
    "window and sinks": ["sliding_window(6)", "or sinks(2)", "and causal()"],
    "careless brackets": ["causal()", "and sliding_window(6)", "or sinks(2)"],
    "left padding": ["prefix_lm(10)", "and not_padding(4)"],
    "causal & documents": ["causal()", "and same_document(3)"],
    "causal | documents": ["causal()", "or same_document(3)"],
}

_TERM = re.compile(r"(?:(and not|and|or) )?(\w+)\((\d*)\)")
_MOST_TERMS = 8


def _terms(explorer: Any, name: str, value: Any) -> list[str]:
    """A check: a list of terms such as "or sinks(2)", each brought into one spelling."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(
            f'{name}: expected a list such as ["causal()", "and sliding_window(6)"]; got {value!r}'
        )
    if not 1 <= len(value) <= _MOST_TERMS:
        raise ValueError(f"{name}: expected 1 to {_MOST_TERMS} terms; got {len(value)}")
    found = []
    for at, term in enumerate(value):
        join, rule, number = _parse(name, term)
        if (join is None) != (at == 0):
            raise ValueError(
                f"{name}: expected the first term without a join and the others with one of "
                f"{', '.join(JOINS)}; got {term!r} in place {at}"
            )
        own = explorer.own.get(rule) is not None
        inside = "" if RULES[rule][0] is None or own else str(number)
        found.append(f"{join or ''} {rule}({inside})".strip())
    return found


def _parse(name: str, term: Any) -> tuple[str | None, str, int]:
    """join, rule and number of a term."""
    match = _TERM.fullmatch(term) if isinstance(term, str) else None
    if match is None or match[2] not in RULES:
        raise ValueError(
            f'{name}: expected terms such as "and sliding_window(6)" with one of the rules '
            f"{', '.join(RULES)}; got {term!r}"
        )
    meaning, least, _ = RULES[match[2]]
    number = int(match[3] or least)
    if meaning is not None and not least <= number <= MOST_TOKENS:
        raise ValueError(
            f"{name}: expected {meaning} from {least} to {MOST_TOKENS} in {term!r}; got {number}"
        )
    return match[1], match[2], number


class MaskBuilder(Explorer):
    """Rules joined with and, or, and not: the matrix, its tiles, the work that they save.

    >>> e = MaskBuilder(["sliding_window(6)", "or sinks(2)", "and causal()"], n=32, block=4)
    >>> e.expression
    '(sliding_window(6) | sinks(2)) & causal()'
    >>> e.terms = ["causal()", "and same_document(3)"]  # three documents of about equal length
    >>> e.mask.matrix(e.n).shape
    (32, 32)

    Args:
        terms: the rules from the top down; each is joined to all above it. The first stands
            alone, the others begin with "and", "or" or "and not". `causal()`, `full()`,
            `prefix_lm(P)`, `sliding_window(W)` and `sinks(S)` are those of `course_lib.masks`;
            `same_document(D)` means D documents of about equal length, `not_padding(L)` that the
            first L tokens are padding.
        n: number of tokens, 1..64.
        block: queries and keys a tile, 1..64.
        tokens: labels; positions if not given. `n` may not be larger than their number.
        ids: document of each token, instead of equal documents; integers [T].
        valid: which tokens are real, instead of padding at the left; bool [T].

    Raises:
        TypeError: if a value is of the wrong kind.
        ValueError: if a term cannot be read, or a value is out of range.
    """

    script = "mask_builder"
    terms = State(["causal()"], _terms)
    n = State(32, whole(1, lambda explorer: len(explorer.tokens)))
    block = State(4, whole(1, lambda _explorer: MOST_TOKENS))

    def __init__(
        self,
        terms: Sequence[str] = ("causal()",),
        *,
        n: int | None = None,
        block: int = 4,
        tokens: Sequence[Any] | None = None,
        ids: ArrayLike | None = None,
        valid: ArrayLike | None = None,
    ) -> None:
        self.own = {
            "same_document": _own("ids", ids, np.integer, "integers"),
            "not_padding": _own("valid", valid, np.bool_, "booleans (True = real token)"),
        }
        sizes = [len(data) for data in self.own.values() if data is not None]
        names = labels(range(min([MOST_TOKENS, *sizes])) if tokens is None else tokens)
        if any(size < len(names) for size in sizes):
            raise ValueError(f"tokens: expected at most {min(sizes)}, as in the data; "
                             f"got {len(names)}")  # fmt: skip
        self.tokens = names
        data = {
            "tokens": names,
            "rules": [[rule, *about] for rule, about in RULES.items()],
            "joins": JOINS,
            "own": {r: None if d is None else d.astype(int).tolist() for r, d in self.own.items()},
            "examples": EXAMPLES,
            "most": [_MOST_TERMS, MOST_TOKENS],
        }
        size = min(32, len(names)) if n is None else n
        super().__init__(data, terms=terms, n=size, block=block)

    @property
    def mask(self) -> Mask:
        """The rule, made of those of `course_lib.masks`; it covers the present `n` tokens."""
        return self._build(self.terms)

    @property
    def expression(self) -> str:
        """The rule as code to copy: names of `course_lib.masks`, `np`, and `ids` or `valid`."""
        text = ""
        for at, (join, rule, number) in enumerate(_parse("terms", t) for t in self.terms):
            code = self._code(rule, number)
            if at == 0:
                text = code
                continue
            left = f"({text})" if at > 1 else text
            text = f"{left} {'|' if join == 'or' else '&'} {'~' if join == 'and not' else ''}{code}"
        return text

    def words(self) -> str:
        """The expression, its cells, its tiles and the work that they save."""
        matrix, tiles = self._derived(self.mask)
        kinds = {kind: int((tiles == kind).sum()) for kind in Tile}
        blind = int((~matrix.any(axis=1)).sum())
        return (
            f"{self.expression}: {int(matrix.sum())} of {matrix.size} cells visible "
            f"({matrix.mean():.1%}). Tiles of {self.block} by {self.block}: {kinds[Tile.FULL]} "
            f"full, {kinds[Tile.PARTIAL]} partial, {kinds[Tile.EMPTY]} empty, so "
            f"{1 - visited_share(tiles):.1%} of the work is saved."
            f"{f' Queries that see nothing: {blind}.' if blind else ''}"
        )

    def picture(self) -> str:
        """The mask of now and the examples, side by side."""
        shown = {} if self.terms in EXAMPLES.values() else {"now": self.mask}
        shown |= {name: self._build(terms) for name, terms in EXAMPLES.items()}
        return builder_view(shown, self.n, self.block)._repr_html_()

    # --- inside ------------------------------------------------------------------------------

    def _build(self, terms: Sequence[str]) -> Mask:
        mask = full()
        for at, (join, rule, number) in enumerate(_parse("terms", term) for term in terms):
            one = self._rule(rule, number)
            if at == 0:
                mask = one
            elif join == "or":
                mask = mask | one
            else:
                mask = mask & (~one if join == "and not" else one)
        return mask

    def _rule(self, rule: str, number: int) -> Mask:
        own = self.own.get(rule)
        if rule == "same_document":
            return same_document(np.arange(self.n) * number // self.n if own is None else own)
        if rule == "not_padding":
            return not_padding(np.arange(self.n) >= number if own is None else own)
        plain = {"causal": causal, "full": full}
        if rule in plain:
            return plain[rule]()
        return {"prefix_lm": prefix_lm, "sliding_window": sliding_window, "sinks": sinks}[rule](
            number
        )

    def _code(self, rule: str, number: int) -> str:
        if RULES[rule][0] is None:
            return f"{rule}()"
        if rule == "same_document":
            own = self.own[rule] is not None
            return f"{rule}({'ids' if own else f'np.arange({self.n}) * {number} // {self.n}'})"
        if rule == "not_padding":
            own = self.own[rule] is not None
            return f"{rule}({'valid' if own else f'np.arange({self.n}) >= {number}'})"
        return f"{rule}({number})"

    def _derived(self, mask: Mask) -> tuple[NDArray[np.bool_], NDArray[np.int8]]:
        matrix = np.asarray(mask.matrix(self.n))
        return matrix, mask.tiles(self.n, block_q=self.block, block_k=self.block)


def _own(name: str, data: Any, kind: Any, words: str) -> NDArray[Any] | None:
    """The reader's own data of each token, checked; None if there is none."""
    if data is None:
        return None
    array = data.detach().cpu().numpy() if hasattr(data, "detach") else np.asarray(data)
    if not np.issubdtype(array.dtype, kind):
        raise TypeError(f"{name}: expected {words}; got {array.dtype}")
    if array.ndim != 1 or not 1 <= len(array) <= MOST_TOKENS:
        raise ValueError(
            f"{name}: expected shape [T], T from 1 to {MOST_TOKENS}; got {list(array.shape)}"
        )
    return array.copy()
