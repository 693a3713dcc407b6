"""Checks of appendix B: printed tables, entry by entry, against what the library computes."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from course_lib.example import TOKENS, K, Q, V
from course_lib.factcheck.finding import Finding, check, either
from course_lib.factcheck.record import (
    DOCUMENTS,
    Claim,
    decimals,
    load_claims,
    load_numbers,
    parse,
)
from course_lib.masks import causal, full
from course_lib.trace import Trace, trace
from course_lib.validate import Array

Rows = Sequence[ArrayLike] | Array


def _causal() -> Trace:
    return trace(Q, K, V, causal(), tokens=TOKENS)


def _standard() -> Trace:
    return trace(Q, K, V, full(), tokens=TOKENS)


def _printed(claim_id: str) -> NDArray[np.float64]:
    return np.array(parse(load_claims()[claim_id].printed))


def _given(claim_id: str) -> NDArray[np.float64]:
    return np.array(parse(load_claims()[claim_id].given))


def softmax(scores: ArrayLike) -> NDArray[np.float64]:
    """Softmax of each row; minus infinity counts as nothing."""
    e = np.exp(np.asarray(scores, dtype=float))
    return e / e.sum(axis=-1, keepdims=True)


def _masked(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(causal().matrix(len(scores)), scores, -np.inf)


def _fractions() -> Rows:
    """Numerator (of the weight printed first for that row) and denominator, rows 0 to 3."""
    t = _causal()
    powers = [t.powers(i)[0] for i in range(4)]
    shown = (0, 0, 0, 3)  # the fraction printed for "on" is that of its own key
    return [[p[j], p.sum()] for p, j in zip(powers, shown, strict=True)]


def _sat_terms() -> Rows:
    """For each key: four pairs of factors with the query of "sat", the sum, the scaled score."""
    t = _causal()
    return [
        [
            *np.stack([t.q[2], t.k[j]], axis=1).ravel(),
            t.raw[2, j],
            t.scaled[2, j] if t.mask[2, j] else -np.inf,
        ]
        for j in range(5)
    ]


def _output_of_sat() -> Rows:
    """The standard output; of its entry 3 what "on" and "mat" contribute, and the causal one."""
    t = _standard()
    from_future = t.weights[2, 3:] @ t.v[3:, 3]
    return [t.output[2], [from_future, _causal().output[2, 3]]]


def _shares_of_cat() -> Rows:
    t = _causal()
    return [[t.weights[0, 0], 100 * t.weights[1, 0], 100 * t.weights[1, 1], t.scaled[1, 0]]]


def _row_003(blocked: bool) -> NDArray[np.float64]:
    """The worked row, lowered by its maximum; what was printed of it is all that we have."""
    row = np.array([2.0, 1.0, 4.0, 3.0])  # the shifts and the maximum 4.0 give it back
    mask = causal().matrix([2], 4)[0] if blocked else np.ones(4, bool)
    return np.where(mask, row - row.max(), -np.inf)


def _row_003_steps(blocked: bool) -> Rows:
    e = np.exp(_row_003(blocked))
    return [e, [e.sum()], e / e.sum()]


#: name -> the rows that the library computes.
TRUTHS: dict[str, Callable[[], Rows]] = {
    "causal4": lambda: causal().matrix(4),
    "causal5": lambda: causal().matrix(5),
    "blocked5": lambda: ~causal().matrix(5),
    "bias4": lambda: causal().bias(4, dtype=np.float64),
    "masked_figure": lambda: _masked(_given("000.08")),
    "masked_code": lambda: _masked(_given("000.10")),
    "weights_000": lambda: softmax(_masked(_given("000.10"))),
    "raw": lambda: _causal().raw,
    "scaled": lambda: _causal().scaled,
    "masked": lambda: _causal().masked,
    "weights": lambda: _causal().weights,
    "output": lambda: _causal().output,
    "fractions": _fractions,
    "shares_of_cat": _shares_of_cat,
    "cat_entries": lambda: [_standard().output[1, 2:], _causal().output[1, 2:]],
    "sat_terms": _sat_terms,
    "std_sat": _output_of_sat,
    "output_on": lambda: _causal().output[3:4],
    "output_The": lambda: [_causal().output[0], _standard().output[0]],
    "Q": lambda: Q,
    "K": lambda: K,
    "V": lambda: V,
    "row_003_shifted": lambda: [_row_003(True), _row_003(False)],
    "row_003_before": lambda: _row_003_steps(True),
    "row_003_raw": lambda: _row_003_steps(False),
    "filled_004": lambda: np.where(causal().matrix(5), _printed("004.18"), -1e9),
    "weights_004": lambda: softmax(_masked(_printed("004.18"))),
}


def compare(printed: Sequence[str], truth: Rows) -> Finding:
    """Entry by entry: right if the printed number is the true one, rounded as it was printed.

    Args:
        printed: rows as printed.
        truth: rows of the same lengths.

    Raises:
        ValueError: if the shapes differ.
    """
    total, wrong, worst, where = 0, 0, 0.0, ""
    for i, (line, right) in enumerate(zip(printed, truth, strict=True)):
        tokens, right = line.split(), np.asarray(right, dtype=float).ravel()
        if len(tokens) != len(right):
            raise ValueError(f"printed: expected {len(right)} numbers in row {i}; got {line!r}")
        for j, (token, x) in enumerate(zip(tokens, right, strict=True)):
            total += 1
            if not _is_rounding_of(token, float(x)):
                wrong += 1
                gap = abs(float(token) - x)
                if gap > worst:
                    worst, where = gap, f"row {i}, column {j}: {token}, should be {x:.4f}"
    if wrong == 0:
        return either(True, f"all {total} entries agree")
    return either(False, f"{wrong} of {total} entries are wrong; worst at {where}")


def _is_rounding_of(token: str, x: float) -> bool:
    value = float(token)
    if not (math.isfinite(value) and math.isfinite(x)):
        return value == x
    if token.lstrip("-").isdigit():  # a whole number is meant exactly
        return abs(value - x) < 1e-9
    half = 0.5 * 10.0 ** -decimals(token)
    return abs(value - x) <= half * (1 + 1e-9)


@check
def table(claim: Claim) -> Finding:
    """A printed table against the truth that the claim names."""
    return compare(claim.printed, TRUTHS[claim.expected]())


@check
def weights_001(claim: Claim) -> Finding:
    """Printed weights whose scores are not given: whatever they were, rows must sum to 1."""
    rows = np.array(parse(claim.printed))
    sums = rows.sum(axis=1)
    bad = np.abs(sums - 1) > 0.005 * (np.arange(5) + 1) + 1e-9  # the rounding of each entry
    return either(
        not bad.any(),
        f"row sums {' '.join(f'{s:.2f}' for s in sums)}; {bad.sum()} of 5 rows cannot be weights, "
        f"and row 0 must begin with 1.00, not {rows[0, 0]:.2f}",
    )


@check
def upper_triangle_of_001(_: Claim) -> Finding:
    """Zero above the diagonal, not below."""
    rows = _printed("001.07")
    return either(
        np.array_equal(rows > 0, causal().matrix(5)),
        f"{int((rows > 0).sum())} entries above zero, {int((rows == 0).sum())} zeros",
    )


def _x_of_004() -> NDArray[np.float64]:
    """The random x of document 004: output = weights x, so x = inverse(weights) output."""
    return np.linalg.solve(_printed("004.22"), _printed("004.25")).astype(np.float64)


@check
def scores_004(claim: Claim) -> Finding:
    """Scores of x with itself, where x follows from two other tables."""
    x, scores = _x_of_004(), np.array(parse(claim.printed))
    gap = float(np.abs(x @ x.T / math.sqrt(x.shape[1]) - scores).max())
    # Four decimals in weights and outputs are 5e-5; solving and squaring multiplies that by ten.
    symmetric = np.array_equal(scores, scores.T)
    return either(
        symmetric and gap < 1e-3,
        f"symmetric: {'yes' if symmetric else 'no'}; largest gap to the scores of x {gap:.4f}",
    )


@check
def output_004(claim: Claim) -> Finding:
    """The first row of the output is the first row of x, whose length the scores tell."""
    output, weights = np.array(parse(claim.printed)), softmax(_masked(_printed("004.18")))
    x = np.linalg.solve(weights, output)
    again = softmax(_masked(x @ x.T / 2)) @ x
    gap = float(np.abs(again - output).max())
    return either(gap < 1e-3, f"attention of the x that they imply is off by at most {gap:.4f}")


@check
def visible_004(_: Claim) -> Finding:
    """Exact zeros above the diagonal, none below."""
    return either(
        np.array_equal(_printed("004.22") > 0, causal().matrix(5)), "non-zero where visible, only"
    )


@check
def full_attention_of_token_one(_: Claim) -> Finding:
    """Which token attends to itself only?"""
    own = np.diag(softmax(_masked(_printed("004.18"))))
    return either(
        bool(own[1] > 0.99995), f"own weight of token 0: {own[0]:.4f}, of token 1: {own[1]:.4f}"
    )


@check
def where_cats_entries_come_from(_: Claim) -> Finding:
    """What each value vector contributes to entries 2 and 3 of "cat" in standard attention."""
    t = _standard()
    parts = t.weights[1][:, None] * t.v  # [key, entry]
    mat = parts[4, 2:]
    rest = parts[:4, 2:].sum(axis=0)
    return either(
        bool((mat == 0).all()),
        f"mat contributes {mat[0]:.4f} to each; without it {rest[0]:.4f} and {rest[1]:.4f}",
    )


@check
def rows_of_a_softmax_sum_to_one(_: Claim) -> Finding:
    """The running example, and the scores of document 000."""
    sums = np.concatenate(
        [_causal().weights.sum(axis=1), softmax(_masked(_given("000.10"))).sum(axis=1)]
    )
    return either(bool(np.allclose(sums, 1)), f"{len(sums)} rows, all sums {sums.mean():.4f}")


@check
def length_of_text(claim: Claim) -> Finding:
    """Words that are there; minutes at the speed that the two printed numbers imply."""
    said, minutes = parse(claim.printed)[0]
    words = DOCUMENTS[claim.document].words
    return either(
        abs(words - said) < 0.1 * said,
        f"{words:,} words; at {said / minutes:.0f} words a minute, "
        f"{words * minutes / said:.0f} minutes",
    )


@check
def lines_explained(claim: Claim) -> Finding:
    """The explained and the unexplained add up to all lines, and the listings count up to all."""
    rows = parse(claim.printed)
    counted = all(
        _line_numbers(claim.id, span) == "".join(map(str, range(1, int(row[0]) + 1)))
        for row, span in zip(rows, (range(644, 675), range(759, 774)), strict=False)
    )
    return either(
        counted and all(whole - explained == rest for whole, explained, rest in rows),
        f"counted up without a gap: {'yes' if counted else 'no'}; "
        + ", ".join(f"{a:.0f} - {b:.0f} = {a - b:.0f}" for a, b, _c in rows),
    )


def _line_numbers(claim_id: str, span: range) -> str:
    """The digits of a listing's line numbers, in order, as the copy has glued them together."""
    digits = "".join(
        token
        for row in load_numbers()
        if row.settled_by == claim_id and row.line in span
        for token in row.tokens
    )
    return digits.replace("31132", "3132")  # diagonal=1 ends one line, 32 begins the next


@check
def a_method_for_each_step(claim: Claim) -> Finding:
    """The method in which each step stands; forward is where they all come together."""
    pairs = [pair.split() for pair in claim.printed_pairs]
    own = [step for step, method in pairs if method != "forward"]
    return either(
        len(own) == len(pairs),
        f"{len(own)} of {len(pairs)} steps have a method of their own: {', '.join(own)}",
    )


@check
def words_of_the_example(_: Claim) -> Finding:
    """The words of the sentence against the tokens."""
    words = ["The", "cat", "sat", "on", "the", "mat"]
    return either(
        list(TOKENS) == words, f"{len(words)} words, {len(TOKENS)} tokens: {', '.join(TOKENS)}"
    )


@check
def line_numbers(claim: Claim) -> Finding:
    """The number beside each explanation, and where the statement stands in the listing."""
    pairs = np.array([pair.split() for pair in claim.printed_pairs], dtype=int)
    off = np.abs(pairs[:, 0] - pairs[:, 1])
    return either(
        not off.any(), f"{int((off > 0).sum())} of {len(off)} differ, by {off.max()} at most"
    )
