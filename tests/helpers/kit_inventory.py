"""The concept inventory of the class kit, computed: the right option of each item and the wrong.

`docs/teaching/concept_inventory_form_a.md` and `_b.md` show these options; `test_class_kit.py`
compares them, and the key. A wrong option is what a named misconception answers: where its code in
`solutions/misconceptions` can be called on the item's data, it is called.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from course_lib.costs import kv_cache_bytes
from course_lib.masks import Tile, causal, prefix_lm
from tests.helpers.exercise_bank import bank

#: (exercise, name of a misconception)
Thought = tuple[str, str]


@dataclass(frozen=True)
class Item:
    """One item of one form: the right option, what each misconception answers, its data."""

    right: str
    wrong: dict[Thought, str]
    #: What the question must say, or the data computed with is not that of the question.
    stem: tuple[str, ...] = ()


def word(n: int) -> str:
    """A small number in words."""
    return ["zero", "one", "two", "three", "four", "five", "six", "seven"][n]


def thinks(exercise: str, name: str) -> Callable[..., Any]:
    """The code of a misconception."""
    (answer,) = (m.answer for m in bank().misconceptions[exercise] if m.name == name)
    return answer


def cells(row: Iterable[Any]) -> str:
    """A row of a mask, "1 1 0"."""
    return " ".join(str(int(x)) for x in row)


def target(text: str, position: int) -> Item:
    words = text.split()

    def asked(shift: Callable[..., Any]) -> str:
        """The word that stands as the target where `position` is the input."""
        inputs, targets = shift(np.arange(len(words)))
        return words[int(targets[list(inputs).index(position)])]

    names = ("targets equal inputs", "shifted backwards", "shifted twice")
    wrong = {("1.2", name): asked(thinks("1.2", name)) for name in names}
    stem = (f'"{text}"', f"the output at position {position}?")
    return Item(asked(lambda t: (t[:-1], t[1:])), wrong, stem)


def mask_row(n: int, row: int) -> Item:
    names = ("transposed", "diagonal blocked", "next token visible")
    wrong = {("2.2", name): cells(np.asarray(thinks("2.2", name)(n))[row]) for name in names}
    stem = (f"A text of {word(n)} tokens", f"query at position {row}?", f"keys 0 to {n - 1}")
    return Item(cells(causal().matrix(n)[row]), wrong, stem)


def chunk_row(cached: int, new: int, which: int) -> Item:
    keys = np.arange(cached + new)
    wrong = {
        "mask from the top left corner": keys <= which,
        "no mask with a cache": keys >= 0,
        "diagonal blocked": keys < cached + which,
    }
    right = causal().matrix(np.array([cached + which]), keys)[0]
    stem = (
        f"{word(cached).capitalize()} tokens are in a KV cache",
        f"{word(new).capitalize()} new tokens",
        f"**{('first', 'second')[which]}**",
        f"keys 0 to {cached + new - 1}",
    )
    return Item(cells(right), {("5.2", name): cells(row) for name, row in wrong.items()}, stem)


def softmax_row(powers: list[int]) -> Item:
    """Scores are the logarithms of the powers; the last one is blocked."""
    *seen, blocked = powers

    def shares(parts: list[int], total: int) -> str:
        return ", ".join("0" if not p else f"{p}/{total}" for p in parts)

    return Item(
        shares([*seen, 0], sum(seen)),
        {
            ("3.3", "mask after softmax"): shares([*seen, 0], sum(powers)),
            ("3.3", "blocked scores set to zero"): shares([*seen, 1], sum(seen) + 1),
            ("3.3", "mask ignored"): shares(powers, sum(seen) + blocked),
        },
        ("ln {}, ln {} and ln {}".format(*powers), "third key is blocked"),
    )


def other_dialect(n: int, query: int) -> Item:
    """The function reads True the other way round."""

    def keys(row: Any) -> str:
        found = [str(i) for i in np.flatnonzero(row)]
        return ", ".join(found[:-1]) + " and " + found[-1]

    seen = causal().matrix(n)
    return Item(
        keys(~seen[query]),
        {
            ("4.4", "polarity kept"): keys(seen[query]),
            ("4.4", "queries and keys swapped"): keys(seen.T[query]),
            ("2.2", "every token sees all"): keys(np.ones(n, dtype=bool)),
        },
        (f"causal mask of {word(n)} tokens", f"query at position {query} attend", "*blocked*"),
    )


def leak(table: list[str]) -> Item:
    cells_ = np.array([[c == "1" for c in row] for row in table])
    ((i, j),) = np.argwhere(np.triu(cells_, 1))
    found = "Output {} depends on input {}."
    return Item(
        found.format(i, j),
        {
            ("1.3", "transposed"): found.format(j, i),
            ("1.3", "future assumed blocked"): "None: this model is causal.",
            ("2.3", "own position blocked"): found.format(i, i),
        },
        ("\n".join(" ".join(row) for row in table), "Rows are outputs"),
    )


def cache_bytes(layers: int, heads: int, size: int, tokens: int) -> Item:
    sizes = (layers, heads, size, tokens, 1, 2)
    names = ("K counted but not V", "queries kept too", "T x T table counted")
    wrong = {("5.5", name): f"{thinks('5.5', name)(*sizes):,}" for name in names}
    stem = (
        f"has {layers} layers",
        f"{heads} key heads of {size} numbers",
        "takes 2 bytes",
        f"one text of {tokens} tokens",
    )
    return Item(f"{kv_cache_bytes(*sizes):,}", wrong, stem)


def prefix_row(n: int, prefix: int, row: int) -> Item:
    names = ("prefix rows opened to the suffix", "prefix ignored", "prefix one too long")
    wrong = {
        ("6.1", name): cells(np.asarray(thinks("6.1", name)(n, prefix))[row]) for name in names
    }
    stem = (f"first {prefix} of {n} tokens", f"query at position {row}?", f"keys 0 to {n - 1}")
    return Item(cells(prefix_lm(prefix).matrix(n)[row]), wrong, stem)


def running_sum(m: int, total: int, score: int) -> Item:
    """The formulas are compared with what the code of each thought returns."""
    gap = score - m
    formulas = {
        "old sums not rescaled": (f"{total} + 1", total + 1.0),
        "factor the wrong way round": (f"{total} e^({gap}) + 1", total * np.exp(gap) + 1),
        "earlier blocks forgotten": ("1", 1.0),
    }
    data = np.array([float(m)]), np.array([float(total)]), np.zeros((1, 1))
    block = np.array([[float(score)]]), np.ones((1, 1))
    wrong = {}
    for name, (text, value) in formulas.items():
        _, answer, _ = thinks("7.1", name)(*(x.copy() for x in data), *block)
        assert np.isclose(float(np.asarray(answer)[0]), value), name
        wrong["7.1", name] = text
    scores = np.array([float(score), m + np.log(total)])  # one old score with the same power
    assert np.isclose(np.exp(scores - score).sum(), total * np.exp(-gap) + 1)
    stem = (f"is {m}, and the sum of exp(score - {m}) is {total}", f"comes in: {score}.")
    return Item(f"{total} e^(-{gap}) + 1", wrong, stem)


def tiles(rows: int) -> Item:
    kinds = causal().tiles(4 * rows, block_q=4, block_k=4)
    half = thinks("7.2", "half of all tiles")(4 * rows, 4)["full"]  # "the half that is visible"
    blind = thinks("7.2", "diagonal counted as empty")(4 * rows, 4)
    return Item(
        str(int((kinds != Tile.EMPTY).sum())),
        {
            ("7.2", "half of all tiles"): str(half),
            ("7.2", "diagonal counted as empty"): str(blind["full"] + blind["partial"]),
            ("7.3", "future tiles computed"): str(kinds.size),
        },
        (f"{rows} rows of {rows} tiles", f"of the {rows * rows} tiles"),
    )


def forms() -> dict[str, list[Item]]:
    """Both forms; item i of one asks what item i of the other asks, with other data."""
    return {
        "a": [
            target("The cat sat on mat", 2),
            mask_row(5, 2),
            chunk_row(4, 2, 0),
            softmax_row([1, 2, 5]),
            other_dialect(4, 1),
            leak(["100", "111", "111"]),
            cache_bytes(2, 4, 8, 10),
            prefix_row(5, 2, 0),
            running_sum(3, 4, 5),
            tiles(4),
        ],
        "b": [
            target("We saw the dog run", 1),
            mask_row(6, 3),
            chunk_row(2, 3, 1),
            softmax_row([1, 3, 4]),
            other_dialect(5, 2),
            leak(["101", "110", "111"]),
            cache_bytes(3, 2, 16, 20),
            prefix_row(6, 3, 1),
            running_sum(1, 2, 4),
            tiles(6),
        ],
    }
