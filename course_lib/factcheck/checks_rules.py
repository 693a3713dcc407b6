"""Checks of appendix B: masks, formulas, and code fragments replayed in our own words."""

import inspect
import math
import sys
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from course_lib.attention import attention, masked_softmax, scores
from course_lib.cache import ConcatCache
from course_lib.example import TOKENS, K, Q, V
from course_lib.factcheck.checks_tables import softmax
from course_lib.factcheck.finding import Finding, check, either, in_cases
from course_lib.factcheck.record import Claim, parse
from course_lib.language import toy
from course_lib.leaks import influence
from course_lib.masks import Mask, causal, full, open_rows, prefix_lm
from course_lib.trace import trace
from course_lib.training import shift
from course_lib.validate import to_numpy

WORDS = ("The", "cat", "sat", "on", "the", "mat")


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers in double precision, the same on every machine."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def example() -> tuple[Tensor, Tensor, Tensor]:
    """Q, K, V of the running example, in torch."""
    q, k, v = (torch.tensor(np.array(x)) for x in (Q, K, V))
    return q, k, v


def gap(a: Tensor | NDArray[Any], b: Tensor | NDArray[Any]) -> float:
    """Largest absolute difference."""
    return float(np.abs(np.asarray(a) - np.asarray(b)).max())


# --- what a mask lets through --------------------------------------------------------------------


@check
def contract_of_the_mask(_: Claim) -> Finding:
    """Row i of the causal mask against the sentence."""
    said = [[j in range(i + 1) for j in range(6)] for i in range(6)]
    return either(np.array_equal(causal().matrix(6), said), "all 36 pairs of 6 positions agree")


@check
def future_of_position_three(_: Claim) -> Finding:
    """The blocked positions of the row, counted both ways."""
    blocked = ~causal().matrix(6)
    from_one = (np.flatnonzero(blocked[2]) + 1).tolist()
    from_zero = np.flatnonzero(blocked[3]).tolist()
    return in_cases(
        {"counted from 1": from_one == [4, 5, 6], "counted from 0": from_zero == [4, 5, 6]},
        f"From 1 the future of 3 is {from_one}, from 0 it is {from_zero}.",
    )


@check
def query_two_column_three(_: Claim) -> Finding:
    """One cell."""
    allowed = bool(causal().matrix([2], [3]).item())
    return either(not allowed, f"the mask allows it: {'yes' if allowed else 'no'}")


@check
def look_back(_: Claim) -> Finding:
    """May a query see what is behind it, and what is ahead?"""
    mask = causal().matrix(5)
    back, ahead = bool(mask[3, 1]), bool(mask[1, 3])
    return either(
        not back, f"3 sees 1: {'yes' if back else 'no'}; 1 sees 3: {'yes' if ahead else 'no'}"
    )


@check
def fiftieth_token(claim: Claim) -> Finding:
    """Row 49 of the mask is the 50th token's."""
    said = parse(claim.printed)[0]
    seen = np.flatnonzero(causal().matrix([49], 100)[0]) + 1
    return either(
        bool(seen[-1] == said[0] and said[1] not in seen),
        f"the 50th token sees {len(seen)} tokens of 100, itself included",
    )


@check
def one_more_each_row(_: Claim) -> Finding:
    """Row sums."""
    sums = to_numpy(causal().matrix(5)).sum(axis=1)
    return either(bool((np.diff(sums) == 1).all()), f"visible in each row: {sums.tolist()}")


@check
def visible_in_three_steps(_: Claim) -> Finding:
    """The first three rows."""
    rows = [np.flatnonzero(row).tolist() for row in causal().matrix(3)]
    return either(rows == [[0], [0, 1], [0, 1, 2]], f"visible positions: {rows}")


@check
def triangles_of_four_and_five(_: Claim) -> Finding:
    """Both matrices against np.tril."""
    same = [np.array_equal(causal().matrix(n), np.tril(np.ones((n, n)))) for n in (4, 5)]
    return either(all(same), f"{causal().matrix(4).sum()} and {causal().matrix(5).sum()} ones")


@check
def np_tril(_: Claim) -> Finding:
    """np.tril of ones."""
    same = all(np.array_equal(np.tril(np.ones((n, n))), causal().matrix(n)) for n in range(1, 9))
    return either(same, "equal to the rule for T = 1 to 8")


@check
def tril_makes_the_mask(_: Claim) -> Finding:
    """torch.tril of ones."""
    made = torch.tril(torch.ones(5, 5))
    return either(torch.equal(made == 1, causal().tensor(5)), f"equal; its dtype is {made.dtype}")


@check
def triu_marks_the_future(_: Claim) -> Finding:
    """torch.triu with diagonal=1."""
    made = torch.triu(torch.ones(5, 5, dtype=torch.bool), diagonal=1)
    return either(torch.equal(made, ~causal().tensor(5)), "the complement of the rule")


@check
def tril_equals_triu(_: Claim) -> Finding:
    """Zero in one is True in the other."""
    low = torch.tril(torch.ones(7, 7))
    high = torch.triu(torch.ones(7, 7, dtype=torch.bool), diagonal=1)
    return either(torch.equal(low == 0, high), "tril == 0 is triu(diagonal=1)")


@check
def diagonals_skipped(_: Claim) -> Finding:
    """How many diagonals of ones triu leaves out, from the main one on."""
    ones = torch.ones(5, 5)
    kept = [int(torch.triu(ones, diagonal=d).sum()) for d in (0, 1, 2)]
    return either(kept == [15, 10, 6], f"entries left for diagonal 0, 1, 2: {kept}")


@check
def which_triangle(_: Claim) -> Finding:
    """Where the entries of each matrix are."""
    visible = causal().matrix(5)
    bias = causal().bias(5, dtype=np.float64)
    return in_cases(
        {
            "as a matrix of who may attend": np.array_equal(visible, np.tril(visible)),
            "as an additive matrix": bool((np.nan_to_num(np.triu(bias, 1)) == 0).all()),
        }
    )


@check
def triangular_is_not_faster(_: Claim) -> Finding:
    """Operations of a product, as PyTorch counts them, with a full matrix and with a triangle."""

    def operations(matrix: Tensor) -> int:
        with FlopCounterMode(display=False) as counter:
            matrix @ matrix
        return counter.get_total_flops()

    full_, triangle = operations(torch.ones(64, 64)), operations(torch.ones(64, 64).tril())
    return either(full_ == triangle, f"{full_:,} operations with either")


@check
def picture_of_masked_scores(_: Claim) -> Finding:
    """Kept where visible, minus infinity elsewhere."""
    picture = np.array([list(row) for row in ("+---", "++--", "+++-", "++++")])  # - is blocked
    shown = draw(4, 4).numpy() + causal().bias(4, dtype=np.float64)
    kept = np.isfinite(shown)
    return either(
        np.array_equal(kept, picture == "+"), f"{kept.sum()} scores kept, {(~kept).sum()} blocked"
    )


# --- softmax, fills, and the order of the steps --------------------------------------------------


@check
def minus_infinity_is_exactly_zero(_: Claim) -> Finding:
    """Weights on later positions, in three dtypes."""
    most = 0.0
    future = torch.arange(8) > torch.arange(8)[:, None]  # column after row
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        s = draw(8, 8).to(dtype).masked_fill(~causal().tensor(8), -torch.inf)
        most = max(most, float(s.softmax(-1)[future].abs().max()))
    return either(most == 0, f"largest weight on the future in three dtypes: {most}")


@check
def exponentials_at_the_ends(_: Claim) -> Finding:
    """exp at both ends of a masked row."""
    values = np.exp(np.array([-np.inf, -1e9, 0.0]))
    return either(values.tolist() == [0, 0, 1], f"exp: {values.tolist()}")


@check
def why_future_weights_vanish(_: Claim) -> Finding:
    """Are the dot products of blocked pairs near zero, or is it the exponential of the fill?"""
    blocked = np.abs((Q @ K.T)[~causal().matrix(5)])
    very_negative = np.array([-1e9, -1e9])
    return either(
        bool((blocked < 1e-3).all()),
        f"dot products of the blocked pairs: {blocked.min():.2f} to {blocked.max():.2f}, "
        f"of two very negative vectors: {very_negative @ very_negative:.0e}; "
        f"exp(-1e9): {np.exp(-1e9)}",
    )


@check
def huge_negative_number(_: Claim) -> Finding:
    """-1e9 against minus infinity: ordinary rows in three dtypes, and a row that sees nothing."""
    s, mask = draw(6, 6), causal().tensor(6)

    def same(dtype: torch.dtype) -> bool:
        x = s.to(dtype)
        try:
            low = x.masked_fill(~mask, -1e9).softmax(-1)
        except RuntimeError:  # the number cannot be stored
            return False
        return torch.equal(low, x.masked_fill(~mask, -torch.inf).softmax(-1))

    nothing = torch.full((1, 4), -1e9, dtype=torch.float64).softmax(-1)
    return in_cases(
        {
            "same in float64": same(torch.float64),
            "same in float32": same(torch.float32),
            "same in float16": same(torch.float16),
            "a row that sees nothing gets no weight": bool((nothing == 0).all()),
        },
        f"Such a row gets {nothing[0, 0]:.2f} everywhere.",
    )


@check
def more_stable(_: Claim) -> Finding:
    """Where would -1e9 be better behaved than minus infinity?"""
    s, mask = draw(6, 6).float() * 30, causal().tensor(6)
    low = s.masked_fill(~mask, -1e9).softmax(-1)
    high = s.masked_fill(~mask, -torch.inf).softmax(-1)
    try:
        s.half().masked_fill(~mask, -1e9)
        fits = True
    except RuntimeError:
        fits = False
    empty = torch.full((1, 4), -torch.inf).softmax(-1)
    return in_cases(
        {
            "rows with a visible key differ": not torch.equal(low, high),
            "minus infinity fails in float32": bool(high.isnan().any()),
            "-1e9 fits into float16": fits,
            "a row that sees nothing is NaN with minus infinity only": bool(empty.isnan().all()),
        }
    )


@check
def mask_after_softmax(_: Claim) -> Finding:
    """Row sums when the mask comes second."""
    weights = softmax(scores(Q, K)) * causal().matrix(5)
    sums = weights.sum(axis=1)
    short = sums[:-1]
    row = (softmax([2.0, 1.0, 4.0, 3.0]) * [1, 1, 1, 0]).sum()
    return either(
        bool((short < 1).all()) and row < 1,
        f"running example: {' '.join(f'{x:.2f}' for x in sums)}; the worked row: {row:.4f}",
    )


@check
def renormalising(_: Claim) -> Finding:
    """Mask, then divide by the row sum; with a blocked score that lies `ahead` of the rest."""

    def right(ahead: float, dtype: torch.dtype) -> bool:
        s = torch.tensor([0.0, 1.0, 1.0 + ahead], dtype=dtype)
        visible = torch.tensor([True, True, False])
        late = s.softmax(-1) * visible
        late = late / late.sum()
        early = s.masked_fill(~visible, -torch.inf).softmax(-1)
        return bool(torch.allclose(late, early, rtol=1e-3))

    return in_cases(
        {
            "1 ahead, float32": right(1, torch.float32),
            "104 ahead, float64": right(104, torch.float64),
            "104 ahead, float32": right(104, torch.float32),
        }
    )


@check
def zeros_after_softmax_leak(_: Claim) -> Finding:
    """Does an earlier output depend on a later token, when the mask comes second?"""
    mask = causal().tensor(6)

    def late(x: Tensor) -> Tensor:
        weights = (x @ x.mT / math.sqrt(x.shape[-1])).softmax(-1)
        return (weights * mask) @ x

    leaks = int((influence(late, draw(6, 8)) & ~causal().matrix(6)).sum())
    return either(leaks > 0, f"{leaks} of 15 future pairs leak, through the denominator")


@check
def small_weights_still_leak(_: Claim) -> Finding:
    """A penalty of 5 on the future, instead of a mask."""
    penalty = 5.0 * ~causal().tensor(6)

    def soft(x: Tensor) -> Tensor:
        return (x @ x.mT / math.sqrt(x.shape[-1]) - penalty).softmax(-1) @ x

    leaks = int((influence(soft, draw(6, 8)) & ~causal().matrix(6)).sum())
    return either(leaks > 0, f"{leaks} of 15 future pairs leak")


@check
def softmax_with_a_floor(_: Claim) -> Finding:
    """Replace what is not finite by -1e9, subtract the maximum, exponentiate, divide."""

    def replay(x: NDArray[Any]) -> NDArray[Any]:
        x = np.where(np.isfinite(x), x, -1e9)
        e = np.exp(x - x.max(axis=-1, keepdims=True))
        return e / e.sum(axis=-1, keepdims=True)

    t = trace(Q, K, V, causal(), tokens=TOKENS)
    empty = replay(np.full((1, 4), -np.inf))
    with_nan = replay(np.array([[0.0, np.nan, 1.0]]))
    return in_cases(
        {
            "causal rows": gap(replay(t.masked), t.weights) < 1e-12,
            "a row that sees nothing gets no weight": bool((empty == 0).all()),
            "a NaN stays visible": bool(np.isnan(with_nan).any()),
        },
        f"The empty row gets {empty[0, 0]:.2f} everywhere.",
    )


@check
def maximum_of_a_masked_row(_: Claim) -> Finding:
    """np.isfinite of both infinities; np.max with and without the replacement."""
    row, empty = np.array([-np.inf, 0.5, -np.inf]), np.full(3, -np.inf)
    return in_cases(
        {
            "isfinite is False for both infinities": not np.isfinite([-np.inf, np.inf]).any(),
            "needed in a row with a visible key": not np.isfinite(row.max()),
            "needed in an empty row": not np.isfinite(empty.max()),
        }
    )


@check
def shift_by_the_maximum(_: Claim) -> Finding:
    """exp(s) / sum against exp(s - max) / sum, for small scores and for large ones."""
    small, large = draw(6, 6).numpy(), 1000 + draw(6, 6).numpy()

    def shifted(s: NDArray[Any]) -> NDArray[Any]:
        return softmax(s - s.max(axis=-1, keepdims=True))

    with np.errstate(over="ignore", invalid="ignore"):
        overflows = not np.isfinite(softmax(large)).any()
    far = gap(shifted(small), softmax(small))
    good = far < 1e-12 and overflows and np.allclose(shifted(large).sum(axis=1), 1)
    return either(
        bool(good),
        f"largest difference {far:.4f}; scores near 1000 overflow without the shift: "
        f"{'yes' if overflows else 'no'}",
    )


@check
def product_is_compiled(_: Claim) -> Finding:
    """How many lines of Python run during a product of two matrices."""
    lines = 0

    def count(_frame: FrameType, event: str, _arg: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        return count

    a, before = np.ones((50, 50)), sys.gettrace()
    sys.settrace(count)
    try:
        np.matmul(a, a)
    finally:
        sys.settrace(before)
    return either(lines == 0, f"lines of Python that run for 125,000 products: {lines}")


@check
def softmax_over_dim_one(_: Claim) -> Finding:
    """Which axis dim=1 is."""
    flat, batched = draw(5, 5), draw(2, 3, 5, 5)
    return in_cases(
        {
            "[T, T]": torch.equal(flat.softmax(1), flat.softmax(-1)),
            "[B, H, T, T]": torch.equal(batched.softmax(1), batched.softmax(-1)),
        }
    )


# --- formulas ------------------------------------------------------------------------------------


@check
def score_formula(_: Claim) -> Finding:
    """Entry (2, 0) by hand, and the matrix."""
    by_hand = sum(Q[2, n] * K[0, n] for n in range(4)) / math.sqrt(4)
    good = np.isclose(scores(Q, K)[2, 0], by_hand) and gap(scores(Q, K), Q @ K.T / 2) < 1e-12
    return either(bool(good), f"row 2, column 0: {by_hand:.4f}, query 2 with key 0")


@check
def additive_formula(_: Claim) -> Finding:
    """softmax(S + M) against the library."""
    s = draw(6, 6).numpy()
    bias = np.array([[0.0 if j <= i else -np.inf for j in range(6)] for i in range(6)])
    far = gap(softmax(s + bias), masked_softmax(s, causal().matrix(6)))
    return either(far < 1e-12, f"largest difference {far:.4f}")


@check
def formula_of_the_chapter(_: Claim) -> Finding:
    """softmax(mask(Q K^T / sqrt(d_k))) V against the library."""
    q, k, v = (draw(6, 4, seed=i).numpy() for i in range(3))
    s = q @ k.T / math.sqrt(4)
    s = np.array([[s[i, j] if j <= i else -np.inf for j in range(6)] for i in range(6)])
    far = gap(softmax(s) @ v, attention(q, k, v, causal())[0])
    return either(far < 1e-12, f"largest difference {far:.4f}")


@check
def without_the_mask_it_is_standard(_: Claim) -> Finding:
    """The same steps with and without the mask."""
    q, k, v = (draw(6, 4, seed=i).numpy() for i in range(3))
    standard = softmax(q @ k.T / 2) @ v
    return either(
        gap(attention(q, k, v, full())[0], standard) < 1e-12, "with the mask open, it is standard"
    )


@check
def shapes_of_the_symbols(_: Claim) -> Finding:
    """The shapes, with d_v different from d_k so that no mix-up can hide."""
    n, d_k, d_v = 5, 4, 3
    q, k, v = draw(n, d_k), draw(n, d_k, seed=1), draw(n, d_v, seed=2)
    output, weights = attention(q, k, v, causal())
    found = [tuple(x.shape) for x in (q, k, v, k.T, q @ k.T, weights, output)]
    said = [(n, d_k), (n, d_k), (n, d_v), (d_k, n), (n, n), (n, n), (n, d_v)]
    return either(found == said, f"output {list(found[-1])} with d_v = {d_v}")


@check
def shapes_of_the_walk(_: Claim) -> Finding:
    """The running example's shapes."""
    t = trace(Q, K, V, causal(), tokens=TOKENS)
    found = [x.shape for x in (t.q, t.k.T, t.raw, t.mask, t.weights, t.output)]
    said = [(5, 4), (4, 5), (5, 5), (5, 5), (5, 5), (5, 4)]
    return either(found == said and len(TOKENS) == 5, f"{len(TOKENS)} tokens, Q {list(Q.shape)}")


@check
def root_of_four(claim: Claim) -> Finding:
    """The factor that the library uses, and the size that it takes the root of."""
    size, root = parse(claim.printed)[0]
    q, k, _v = example()
    factor = float((q @ k.T)[1, 0] / scores(q, k)[1, 0])
    return either(
        factor == root and k.shape[-1] == size, f"raw over scaled: {factor:.1f}, d_k {k.shape[-1]}"
    )


@check
def scale_of_the_class(_: Claim) -> Finding:
    """A factor of 1 / sqrt(size) or a division by it."""
    q, k, _v = example()
    far = gap((q @ k.mT) * (1.0 / math.sqrt(k.size(-1))), scores(q, k))
    return either(far < 1e-12, f"largest difference {far:.4f}")


@check
def variance_of_scores(_: Claim) -> Finding:
    """Independent entries of variance 1; and the running example."""
    q, k = draw(2000, 64), draw(2000, 64, seed=1)
    random = float((q * k).sum(-1).div(8).var())
    ours = float(np.var(scores(Q, K)))
    return in_cases(
        {
            "independent entries of variance 1": abs(random - 1) < 0.1,
            "the running example": abs(ours - 1) < 0.1,
        },
        f"Variances {random:.2f} and {ours:.2f}.",
    )


@check
def chain_rule(_: Claim) -> Finding:
    """All texts of three words of the toy language: products of conditionals, and their sum."""
    language = toy()
    size = len(language.words)
    texts = np.stack(np.meshgrid(*[np.arange(size)] * 3, indexing="ij"), -1).reshape(-1, 3)
    with np.errstate(divide="ignore"):
        log_p = language.log_prob(texts).sum(axis=-1)
    total = float(np.exp(log_p).sum())
    text = language.encode("The cat sat")
    factors = [language.emission[0, text[0]]]
    factors += [p[w] for p, w in zip(language.next_word(text)[:-1], text[1:], strict=True)]
    same = math.isclose(math.prod(factors), math.exp(language.log_prob(text).sum()))
    return either(
        math.isclose(total, 1) and same,
        f"the probabilities of all {len(texts):,} texts of 3 words add up to {total:.4f}",
    )


@check
def two_ways_of_counting(_: Claim) -> Finding:
    """Inputs 0..i of the shifted text are tokens 1..i+1, and the target is token i+2."""
    tokens = np.arange(1, 7)  # x_1 .. x_6
    inputs, targets = shift(tokens)
    good = all(
        np.array_equal(inputs[: i + 1], tokens[tokens < targets[i]]) for i in range(len(inputs))
    )
    return either(good, f"what position i reads is what precedes its target, for {len(inputs)} i")


@check
def target_is_the_next_input(_: Claim) -> Finding:
    """Inputs and targets of a text."""
    inputs, targets = shift(np.arange(6))
    return either(np.array_equal(targets[:-1], inputs[1:]), "target i is input i + 1")


@check
def prefix_formula(_: Claim) -> Finding:
    """The printed rule on rows against the rule on columns, at P = 2 of N = 5."""
    said = Mask(lambda q, k: (q < 2) | (k <= q), "i < P or j <= i").matrix(5)
    right = prefix_lm(2).matrix(5)
    row = "".join(str(int(x)) for x in said[0])
    wanted = "".join(str(int(x)) for x in right[0])
    return either(
        np.array_equal(said, right),
        f"{int(np.sum(said != right))} cells of 25 differ; row 0 is {row}, should be {wanted}",
    )


@check
def prefix_at_its_ends(_: Claim) -> Finding:
    """P = 0 and P = N, for both rules."""

    def said(p: int) -> NDArray[Any]:
        return to_numpy(Mask(lambda q, k: (q < p) | (k <= q), "i < P or j <= i").matrix(5))

    good = all(
        np.array_equal(rule(0), causal().matrix(5)) and np.array_equal(rule(5), full().matrix(5))
        for rule in (said, lambda p: prefix_lm(p).matrix(5))
    )
    return either(good, "both rules pass both tests")


@check
def exercise_prefix(_: Claim) -> Finding:
    """The exercise in words: the prefix sees itself both ways, the rest is causal."""
    words = [[(i < 2 and j < 2) or (i >= 2 and j <= i) for j in range(5)] for i in range(5)]
    return either(
        np.array_equal(prefix_lm(2).matrix(5), words), "equal to the right rule in all 25 cells"
    )


@check
def opened_row_two(_: Claim) -> Finding:
    """Which rows of the weights change, and what row 2 becomes."""
    closed = attention(Q, K, V, causal())[1]
    opened = attention(Q, K, V, causal() | open_rows([2]))[1]
    rows = np.flatnonzero(np.abs(closed - opened).max(axis=1) > 1e-12).tolist()
    standard = attention(Q, K, V, full())[1]
    shown = " ".join(f"{x:.4f}" for x in opened[2])
    return either(
        rows == [2] and gap(opened[2], standard[2]) < 1e-12, f"rows {rows}; row 2 becomes {shown}"
    )


# --- code, replayed ------------------------------------------------------------------------------


@check
def code_triu_attention(_: Claim) -> Finding:
    """Project, score, fill where triu is True, softmax, sum."""
    x = draw(5, 6)
    w_q, w_k, w_v = draw(6, 4, seed=1), draw(6, 4, seed=2), draw(6, 3, seed=3)
    q, k, v = x @ w_q, x @ w_k, x @ w_v
    s = q @ k.T / k.shape[-1] ** 0.5
    s = s.masked_fill(torch.triu(torch.ones(5, 5, dtype=torch.bool), diagonal=1), -torch.inf)
    weights = F.softmax(s, dim=-1)
    output, right = attention(q, k, v, causal())
    far = max(gap(weights @ v, output), gap(weights, right))
    shapes = (s.shape, weights.shape, (weights @ v).shape) == ((5, 5), (5, 5), (5, 3))
    return either(far < 1e-12 and shapes, f"largest difference to the library {far:.4f}")


@check
def code_tril_attention(_: Claim) -> Finding:
    """Fill where tril is 0."""
    q, k, v = example()
    s = (q @ k.T / math.sqrt(4)).masked_fill(torch.tril(torch.ones(5, 5)) == 0, -torch.inf)
    far = gap(s.softmax(dim=-1), attention(q, k, v, causal())[1])
    return either(far < 1e-12, f"largest difference to the library {far:.4f}")


@check
def shift_of_six_words(_: Claim) -> Finding:
    """Inputs, targets and what position 0 sees."""
    numbers = np.array([0, 1, 2, 3, 4, 5])
    inputs, targets = shift(numbers)
    blocked = np.flatnonzero(~causal().matrix(5)[0]).tolist()
    good = [WORDS[i] for i in inputs] == list(WORDS[:-1]) and len(targets) == 5
    return either(
        good and [WORDS[i] for i in targets] == list(WORDS[1:]) and blocked == [1, 2, 3, 4],
        f"{len(inputs)} inputs, {len(targets)} targets; position 0 cannot see {blocked}",
    )


@check
def six_words(claim: Claim) -> Finding:
    """Words of the sentence."""
    said = parse(claim.printed)[0][0]
    return either(len(WORDS) == said, f"{len(WORDS)} words: {' '.join(WORDS)}")


def _one_head(
    x: Tensor, held: tuple[Tensor, Tensor] | None, rule: Callable[[int, int], Tensor]
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The short lesson's layer in our words: project, append, mask by `rule`, softmax, sum."""
    q, k, v = (x @ draw(8, 8, seed=s) for s in (1, 2, 3))
    if held is not None:
        k, v = torch.cat([held[0], k], dim=1), torch.cat([held[1], v], dim=1)
    visible = rule(q.shape[1], k.shape[1])
    s = (q @ k.mT / math.sqrt(k.shape[-1])).masked_fill(~visible, -torch.inf)
    return s.softmax(-1) @ v, (k, v)


def _corner(t: int, n: int) -> Tensor:
    """A t x n lower triangle from the top left corner, as printed."""
    return torch.tril(torch.ones(t, n)) != 0


def _by_position(t: int, n: int) -> Tensor:
    return causal().tensor(torch.arange(n - t, n), n)


@check
def class_without_cache(_: Claim) -> Finding:
    """A square triangle, no cache."""
    x = draw(1, 5, 8)
    far = gap(_one_head(x, None, _corner)[0], _one_head(x, None, _by_position)[0])
    return either(far < 1e-12, f"largest difference to the rule on positions {far:.4f}")


@check
def class_with_cache(_: Claim) -> Finding:
    """The fifth token with four in the cache."""
    x = draw(1, 5, 8)
    whole = _one_head(x, None, _by_position)[0]
    held = _one_head(x[:, :4], None, _corner)[1]
    printed = _one_head(x[:, 4:], held, _corner)[0]
    right = _one_head(x[:, 4:], held, _by_position)[0]
    row = "".join(str(int(v)) for v in _corner(1, 5)[0])
    return either(
        gap(printed, whole[:, 4:]) < 1e-12,
        f"its row is {row}, should be 11111; output off by {gap(printed, whole[:, 4:]):.2f}, "
        f"by position off by {gap(right, whole[:, 4:]):.2f}",
    )


@check
def class_returns_the_cache(_: Claim) -> Finding:
    """Lengths and order of what is kept."""
    x = draw(1, 5, 8)
    first = _one_head(x[:, :4], None, _by_position)[1]
    both = _one_head(x[:, 4:], first, _by_position)[1]
    whole = _one_head(x, None, _by_position)[1]
    return either(
        gap(both[0], whole[0]) < 1e-12 and gap(both[1], whole[1]) < 1e-12,
        f"{first[0].shape[1]} kept, then {both[0].shape[1]}, as if fed at once",
    )


@check
def mask_with_one_query(_: Claim) -> Finding:
    """How many cells the mask blocks among the keys that exist."""
    one = int((~_by_position(1, 5)).sum())
    three = int((~_by_position(3, 5)).sum())
    return in_cases(
        {"one new token": one > 0, "three new tokens": three > 0},
        f"Cells blocked: {one} and {three}.",
    )


@check
def cache_one_at_a_time(_: Claim) -> Finding:
    """The running example, one token at a time."""
    q, k, v = example()
    cache, rows = ConcatCache(), []
    for t in range(5):
        held = cache.append(k[t : t + 1], v[t : t + 1])
        rows.append(attention(q[t : t + 1], held.k, held.v)[0])
    far = gap(torch.cat(rows), attention(q, k, v, causal())[0])
    return either(far < 1e-12, f"largest difference over 5 steps {far:.4f}")


@check
def code_numpy_class(_: Claim) -> Finding:
    """Five steps in NumPy, in our words, against the library."""
    s = Q @ K.T / math.sqrt(Q.shape[1])
    blocked = np.triu(np.ones((5, 5), bool), k=1)
    s = s.copy()
    s[blocked] = -np.inf
    e = np.exp(s - s.max(axis=-1, keepdims=True))
    weights = e / e.sum(axis=-1, keepdims=True)
    t = trace(Q, K, V, causal(), tokens=TOKENS)
    far = max(gap(weights, t.weights), gap(weights @ V, t.output))
    return either(far < 1e-12, f"largest difference to the library {far:.4f}")


@check
def code_torch_module(_: Claim) -> Finding:
    """The built-in function, and plain products, against the library."""
    q, k, v = example()
    output, weights = attention(q, k, v, causal())
    built_in = F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True).squeeze(0)
    s = (q @ k.transpose(-2, -1) / 2).masked_fill(
        torch.triu(torch.ones(5, 5, dtype=torch.bool), 1), -torch.inf
    )
    x = draw(5, 6)
    learned = [nn.Linear(6, 4, bias=False).double()(x) for _ in range(3)]
    shapes = all(y.shape == (5, 4) for y in learned)
    far = max(gap(built_in, output), gap(s.softmax(-1), weights))
    return either(far < 1e-12 and shapes, f"largest difference to the library {far:.4f}")


@check
def name_of_the_switch(_: Claim) -> Finding:
    """The signature in the documentation of the PyTorch that is installed."""
    text = F.scaled_dot_product_attention.__doc__ or ""
    at_least_two = int(torch.__version__.split(".")[0]) >= 2
    return either("is_causal" in text and at_least_two, "is_causal is an argument of PyTorch's")


@check
def flash_when_available(_: Claim) -> Finding:
    """Does the flash kernel take the printed call, with three axes, and the same with four?"""

    def takes(*shape: int) -> bool:
        x = draw(*shape).float()
        try:
            with warnings.catch_warnings(), sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                warnings.simplefilter("ignore")
                F.scaled_dot_product_attention(x, x, x, is_causal=True)
        except RuntimeError:
            return False
        return True

    return in_cases({"(1, 5, 4), as printed": takes(1, 5, 4), "(1, 1, 5, 4)": takes(1, 1, 5, 4)})


@check
def boolean_indexing(_: Claim) -> Finding:
    """A copy, filled; the original unchanged."""
    before = scores(Q, K)
    copy = before.copy()
    copy[~causal().matrix(5)] = -np.inf
    good = np.isinf(copy).sum() == 10 and np.isfinite(before).all()
    return either(bool(good), f"{int(np.isinf(copy).sum())} cells set, none in the original")


@check
def keepdims(_: Claim) -> Finding:
    """Shapes, and what happens without keepdims."""
    s = scores(Q, K)
    kept, flat = s.max(axis=-1, keepdims=True), s.max(axis=-1)
    right = np.array_equal((s - kept).max(axis=-1), np.zeros(5))
    wrong = not np.array_equal((s - flat).max(axis=-1), np.zeros(5))
    return either(
        kept.shape == (5, 1) and flat.shape == (5,) and right and wrong,
        "without keepdims, a square matrix broadcasts along the wrong axis, and no error says so",
    )


@check
def transpose(_: Claim) -> Finding:
    """Two axes, and four."""
    flat, batched = draw(5, 4), draw(2, 3, 5, 4)
    good = torch.equal(flat.transpose(-2, -1), flat.T)
    return either(good and batched.transpose(-2, -1).shape == (2, 3, 4, 5), "(N, d) to (d, N)")


@check
def squeeze(_: Claim) -> Finding:
    """One axis less."""
    return either(draw(1, 5, 4).squeeze(0).shape == (5, 4), "(1, 5, 4) to (5, 4)")


@check
def trace_of_sat(_: Claim) -> Finding:
    """What our trace says of row 2."""
    text = trace(Q, K, V, causal(), tokens=TOKENS).explain("sat")
    lines = [line for line in text.splitlines() if line.startswith(("may attend", "blocked"))]
    good = lines[0].endswith("The, cat, sat") and lines[1].endswith("on, mat")
    return either(good, "; ".join(" ".join(line.split()) for line in lines))


@check
def definition_before_use(_: Claim) -> Finding:
    """Three little programs, run."""

    def runs(program: str) -> bool:
        try:
            exec(inspect.cleandoc(program), {})
        except NameError:
            return False
        return True

    return in_cases(
        {
            "a variable must be assigned before it is read": not runs("print(x)\nx = 1"),
            "a function must be defined above the one that calls it": not runs(
                "def f():\n    return g()\ndef g():\n    return 1\nf()"
            ),
            "an import must stand above the function that uses it": not runs(
                "def f():\n    return math.pi\nimport math\nf()"
            ),
        }
    )


# --- batches -------------------------------------------------------------------------------------


@check
def broadcast_mask(_: Claim) -> Finding:
    """[1, 1, T, T] over [B, H, T, T], against one head at a time."""
    q, k, v = (draw(2, 3, 5, 4, seed=i) for i in range(3))
    output, _w = attention(q, k, v, causal().tensor(5)[None, None])
    far = max(
        gap(output[b, h], attention(q[b, h], k[b, h], v[b, h], causal())[0])
        for b in range(2)
        for h in range(3)
    )
    return either(far < 1e-12, f"largest difference to one head at a time {far:.4f}")


@check
def no_copy_of_the_mask(_: Claim) -> Finding:
    """An expanded mask shares its memory, with stride 0."""
    small = causal().tensor(5)[None, None]
    big = small.expand(2, 3, 5, 5)
    same = big.data_ptr() == small.data_ptr()
    return either(
        same and big.stride()[:2] == (0, 0),
        f"{big.numel()} cells shown, {small.numel()} stored, strides {list(big.stride())}",
    )


@check
def shape_flow(_: Claim) -> Finding:
    """The shapes of every stage."""
    b, h, t, d = 2, 3, 5, 4
    q, k, v = (draw(b, h, t, d, seed=i) for i in range(3))
    s = q @ k.transpose(-2, -1)
    weights = masked_softmax(s, causal().tensor(t)[None, None])
    found = [tuple(x.shape) for x in (q, s, weights, weights @ v)]
    return either(found == [(b, h, t, d), (b, h, t, t), (b, h, t, t), (b, h, t, d)], str(found))


@check
def score_grid_is_square(_: Claim) -> Finding:
    """Without a cache, and with four kept keys."""
    q, k = draw(2, 3, 5, 4), draw(2, 3, 5, 4, seed=1)
    square, wide = scores(q, k).shape, scores(q[..., 4:, :], k).shape
    return in_cases(
        {
            "the whole text at once": square[-1] == square[-2],
            "one new query, four keys kept": wide[-1] == wide[-2],
        },
        f"Shapes {list(square)} and {list(wide)}.",
    )
