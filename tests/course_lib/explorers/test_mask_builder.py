"""The mask builder: what it writes, it means."""

import re

import numpy as np
import pytest
import torch

import course_lib.masks
from course_lib.explorers import MaskBuilder
from course_lib.explorers.mask_builder import EXAMPLES, JOINS, RULES
from course_lib.masks import Tile, causal, sinks, sliding_window


def random_terms(rng):
    """A list of 1 to 5 terms."""
    terms = []
    for _ in range(rng.integers(1, 6)):
        rule = rng.choice(list(RULES))
        meaning, least, _ = RULES[rule]
        number = "" if meaning is None else int(rng.integers(least, 12))
        terms.append(f"{rng.choice(JOINS) + ' ' if terms else ''}{rule}({number})")
    return terms


def by_hand(terms, n):
    """The matrix of some terms, written down once more with NumPy."""
    q, k = np.arange(n)[:, None], np.arange(n)[None, :]
    seen = None
    for term in terms:
        join, rule, number = re.fullmatch(r"(and not |and |or )?(\w+)\((\d*)\)", term).groups()
        x = int(number or 0)
        one = {
            "causal": k <= q,
            "full": k >= 0,
            "prefix_lm": (k <= q) | (k < x),
            "sliding_window": (k <= q) & (k > q - x),
            "sinks": k < x,
            "same_document": q * x // n == k * x // n,
            "not_padding": k >= x,
        }[rule] & (q >= 0)
        if seen is None:
            seen = one
        elif join == "or ":
            seen = seen | one
        else:
            seen = seen & (one if join == "and " else ~one)
    return seen


@pytest.mark.parametrize("seed", range(60))
def test_the_mask_is_the_terms_and_the_expression_is_the_mask(seed):
    rng = np.random.default_rng(seed)
    terms, n, block = random_terms(rng), int(rng.integers(1, 20)), int(rng.integers(1, 8))
    e = MaskBuilder(terms, n=n, block=block)
    right = by_hand(terms, n)
    np.testing.assert_array_equal(e.mask.matrix(n), right)
    copied = eval(e.expression, {"np": np, **vars(course_lib.masks)})
    np.testing.assert_array_equal(copied.matrix(n), right)
    counts = re.findall(r"(\d+) of \d+ cells.*: (\d+) full, (\d+) partial, (\d+) empty", e.words())
    tiles = [right[i : i + block, j : j + block] for i in range(0, n, block)
             for j in range(0, n, block)]  # fmt: skip
    full, empty = sum(t.all() for t in tiles), sum(not t.any() for t in tiles)
    assert [int(x) for x in counts[0]] == [
        right.sum(), full, len(tiles) - full - empty, empty,
    ]  # fmt: skip
    assert f"so {empty / len(tiles):.1%} of the work is saved" in e.words()
    blind = int((~right.any(axis=1)).sum())
    assert (f"see nothing: {blind}" in e.words()) == (blind > 0)


def test_order_makes_the_brackets_as_chapter_6_says():
    mended = MaskBuilder(EXAMPLES["window and sinks"])
    assert mended.expression == "(sliding_window(6) | sinks(2)) & causal()"
    right = (causal() & (sliding_window(6) | sinks(2))).matrix(32)
    np.testing.assert_array_equal(mended.mask.matrix(32), right)
    careless = MaskBuilder([*EXAMPLES["careless brackets"], "and not causal()"])
    assert careless.expression == "((causal() & sliding_window(6)) | sinks(2)) & ~causal()"
    assert np.argwhere(careless.mask.matrix(32)).tolist() == [[0, 1]], "the word that is asked for"


@pytest.mark.parametrize("terms", EXAMPLES.values(), ids=EXAMPLES.keys())
def test_every_example_is_a_mask_in_which_nobody_is_blind_but_padding(terms):
    e = MaskBuilder(terms)
    assert e.terms == terms
    assert "see nothing" not in e.words()


def test_own_documents_and_own_padding():
    ids, valid = [7, 7, 3, 3, 3], [True, True, True, True, False]
    e = MaskBuilder(["causal()", "and same_document(2)", "and not_padding()"], ids=ids, valid=valid)
    assert e.terms == ["causal()", "and same_document()", "and not_padding()"]
    assert e.expression == "(causal() & same_document(ids)) & not_padding(valid)"
    assert e.n == 5
    right = np.tri(5, dtype=bool) & (np.equal.outer(ids, ids)) & np.array(valid)
    np.testing.assert_array_equal(e.mask.matrix(5), right)
    e.n = 3
    np.testing.assert_array_equal(e.mask.matrix(3), right[:3, :3])
    with pytest.raises(ValueError, match="n: expected a whole number from 1 to 5; got 6"):
        e.n = 6
    as_tensor = MaskBuilder(["same_document()"], ids=torch.tensor(ids))
    np.testing.assert_array_equal(as_tensor.mask.matrix(5), np.equal.outer(ids, ids))


def test_state_from_python_reaches_the_mask():
    e = MaskBuilder(n=8, block=4, tokens=list("abcdefgh"))
    assert "36 of 64 cells visible (56.2%)" in e.words()
    e.terms = ["sliding_window(2)"]
    e.n, e.block = 6, 2
    assert e.expression == "sliding_window(2)" and "11 of 36" in e.words()
    tiles = e.mask.tiles(6, block_q=2, block_k=2)
    assert f"{(tiles == Tile.EMPTY).sum()} empty" in e.words()


@pytest.mark.parametrize(
    ("terms", "error"),
    [
        ("causal()", TypeError),
        ([], ValueError),
        (["and causal()"], ValueError),
        (["causal()", "causal()"], ValueError),
        (["causal()", "xor causal()"], ValueError),
        (["causal"], ValueError),
        (["rm -rf()"], ValueError),
        (["sliding_window(0)"], ValueError),
        (["sinks(-1)"], ValueError),
        (["sinks(65)"], ValueError),
        ([1], ValueError),
        (["causal()"] + ["and causal()"] * 8, ValueError),
    ],
)
def test_terms_that_cannot_be_read_are_refused_and_change_nothing(terms, error):
    e = MaskBuilder(["prefix_lm(3)"])
    with pytest.raises(error, match=r"^terms: expected"):
        e.terms = terms
    assert e.terms == ["prefix_lm(3)"]
    with pytest.raises(error, match=r"^terms: expected"):
        MaskBuilder(terms)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n": 0}, ValueError, "n: expected a whole number from 1 to 64; got 0"),
        ({"n": 65}, ValueError, "n: expected a whole number from 1 to 64; got 65"),
        ({"block": 1.5}, TypeError, "block: expected a whole number; got float"),
        ({"ids": [0.5]}, TypeError, "ids: expected integers; got float64"),
        ({"ids": [[0, 1]]}, ValueError, r"ids: expected shape \[T\]"),
        ({"valid": [1, 0]}, TypeError, "valid: expected booleans"),
        ({"ids": [0, 1], "tokens": ["a", "b", "c"]}, ValueError, "tokens: expected at most 2"),
        ({"tokens": []}, ValueError, "tokens: expected 1 to 64"),
    ],
)
def test_errors_name_the_argument(options, error, message):
    with pytest.raises(error, match=message):
        MaskBuilder(**options)


def test_the_static_view_shows_now_and_the_examples():
    e = MaskBuilder(["sliding_window(3)", "or sinks(1)"], n=16)
    (alt,) = re.findall(r'<img alt="([^"]*)"', e.picture())
    assert "now: " in alt and all(name.replace("&", "&amp;") in alt for name in EXAMPLES)
    assert "now: " not in MaskBuilder(EXAMPLES["causal"]).picture()
