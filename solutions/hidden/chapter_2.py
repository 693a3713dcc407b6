"""Hidden checks of chapter 2: the tril mask (teachers only)."""

from collections.abc import Sequence

import numpy as np

from course_lib.checks.script import Call, Case, DType, Outcome, Tensor
from course_lib.masks import causal
from course_tools.exercise_bank.assertions import as_array, equal, returns_bool, unchanged
from course_tools.exercise_bank.claims import Claim, Hidden, WrongError

Cases = Sequence[Case]
Outcomes = Sequence[Outcome]

# --- 2.1 MATRIX ----------------------------------------------------------------------------------


def the_value(rng):
    """No calls: the answer is the value."""
    return [Case([])]


def judge_matrix(cases: Cases, outcomes: Outcomes) -> None:
    """Five by five, of 0 and 1, and causal."""
    got = as_array(outcomes[0].values[0], (5, 5), "number" if _is_number(outcomes) else "bool")
    if not np.isin(got, (0, 1)).all():
        raise WrongError("the matrix holds something other than 0 and 1")
    for i, row in enumerate(got.astype(bool)):
        if (row != causal().matrix([i], 5)[0]).any():
            raise WrongError(f"row {i} is not right: what may this token see?")


def _is_number(outcomes: Outcomes) -> bool:
    return np.asarray(outcomes[0].values[0]).dtype.kind in "iuf"


MATRIX = Hidden("2.1", [Claim("the causal mask of five tokens", the_value, judge_matrix)])

# --- 2.2 causal_mask -----------------------------------------------------------------------------


def sizes(rng):
    """Small and larger numbers of tokens."""
    numbers = [1, 2, 3, 5, *rng.integers(6, 40, size=3).tolist()]
    return [Case([Call([n])], f"n = {n}") for n in numbers]


def judge_causal(cases: Cases, outcomes: Outcomes) -> None:
    """Cell by cell; says which kind of cell is wrong."""
    for case, outcome in zip(cases, outcomes, strict=True):
        n = case.calls[0].args[0]
        got = returns_bool(outcome.values[0], (n, n), f"{case.note}: the mask").astype(bool)
        want = causal().matrix(n)
        if (got & ~want).any():
            i, j = np.argwhere(got & ~want)[0]
            raise WrongError(f"{case.note}: row {i} may see column {j}, which is its future")
        if (want & ~got).any():
            i, j = np.argwhere(want & ~got)[0]
            raise WrongError(f"{case.note}: row {i} may not see column {j}, which it may use")


def no_tokens(rng):
    """Nothing is not an error."""
    return [Case([Call([0])], "n = 0")]


def grows(rng):
    """A longer text: the first rows must not change."""
    n = int(rng.integers(4, 20))
    return [Case([Call([n]), Call([n + 1])], f"n = {n} and one more")]


def judge_grows(cases: Cases, outcomes: Outcomes) -> None:
    """The smaller mask is the corner of the larger one, whose new row is all open."""
    small, large = (as_array(v, None, "bool", "the mask") for v in outcomes[0].values)
    n = len(small)
    if large.shape != (n + 1, n + 1) or (large[:n, :n] != small).any():
        raise WrongError("when a token is added, the rows of the tokens before it change")
    if large[:n, n].any() or not large[n].all():
        raise WrongError("a token that is added is seen by others, or does not see all before it")


CAUSAL = Hidden(
    "2.2",
    [
        Claim("each row sees itself and its past, for any n", sizes, judge_causal, 3),
        Claim("no tokens, no rows", no_tokens, judge_causal),
        Claim("a longer text leaves earlier rows alone", grows, judge_grows),
    ],
)

# --- 2.3 causal_mask_at --------------------------------------------------------------------------


def at(q_pos, k_pos, note):
    """One call."""
    return Case(
        [Call([np.asarray(q_pos, dtype=np.int64), np.asarray(k_pos, dtype=np.int64)])], note
    )


def in_a_row(rng):
    """The last queries of a text, against all keys."""
    total = int(rng.integers(6, 12))
    cases = [at(np.arange(total - n, total), np.arange(total), f"the last {n} of {total}")
             for n in (1, 3, total)]  # fmt: skip
    return [*cases, at(np.arange(3), np.arange(7), "the first 3 of 7")]


def anywhere(rng):
    """Positions in any order, with gaps and repeats."""
    shapes = ((4, 6), (6, 4), (5, 5), (1, 7), (7, 1))
    return [at(rng.integers(20, size=q), rng.integers(20, size=k), f"{q} queries, {k} keys")
            for q, k in shapes]  # fmt: skip


def judge_at(cases: Cases, outcomes: Outcomes) -> None:
    """By position; inputs as they were."""
    for case, outcome in zip(cases, outcomes, strict=True):
        q_pos, k_pos = case.calls[0].args
        shape = (len(q_pos), len(k_pos))
        got = returns_bool(outcome.values[0], shape, f"{case.note}: the mask")
        for i, q in enumerate(q_pos):
            for j, k in enumerate(k_pos):
                if got[i, j] != (k <= q):
                    may = "may" if got[i, j] else "may not"
                    raise WrongError(
                        f"{case.note}: you say that a query at position {q} {may} attend to a key "
                        f"at position {k}"
                    )
    unchanged(outcomes)


def empty(rng):
    """No queries, or no keys."""
    some = rng.integers(9, size=3)
    return [at([], some, "no queries"), at(some, [], "no keys"), at([], [], "neither")]


def moved(rng):
    """A text that begins later, and keys in another order."""
    q, k = rng.permutation(15)[:5], rng.permutation(15)[:7]
    order, later = rng.permutation(7), int(rng.integers(1, 1000))
    calls = [Call([q, k]), Call([q + later, k + later]), Call([q, k[order]])]
    return [Case(calls, note=" ".join(map(str, order)))]


def judge_moved(cases: Cases, outcomes: Outcomes) -> None:
    """Only the order of two positions counts."""
    base, shifted, turned = (returns_bool(v, (5, 7)) for v in outcomes[0].values)
    order = [int(n) for n in cases[0].note.split()]
    if (base != shifted).any():
        raise WrongError("the mask changes when all positions grow by the same number")
    if (base[:, order] != turned).any():
        raise WrongError("when the keys come in another order, the columns do not follow")


AT = Hidden(
    "2.3",
    [
        Claim("the end of a text against all of it", in_a_row, judge_at),
        Claim("any positions, in any order", anywhere, judge_at, 2),
        Claim("no queries, no keys", empty, judge_at, 0.5),
        Claim("only the order of positions counts", moved, judge_moved, 0.5),
    ],
)

# --- 2.4 to_bias ---------------------------------------------------------------------------------

_SHAPES = ((5, 5), (3,), (2, 1, 4, 6), (1, 1))


def random_masks(rng, wrap, library, types):
    """Masks of many shapes, each in each type."""
    return [
        Case(
            [Call([wrap(rng.random(shape) < 0.5), DType(library, name)])], f"{list(shape)}, {name}"
        )
        for shape in _SHAPES
        for name in types
    ]


def numpy_masks(rng):
    """NumPy, three types."""
    return random_masks(rng, np.asarray, "numpy", ("float16", "float32", "float64"))


def torch_masks(rng):
    """Torch, four types."""
    return random_masks(rng, Tensor, "torch", ("float16", "bfloat16", "float32", "float64"))


def judge_bias(cases: Cases, outcomes: Outcomes) -> None:
    """0 and -inf, and the type that was asked for."""
    for case, outcome in zip(cases, outcomes, strict=True):
        given, dtype = case.calls[0].args
        mask = given.value if isinstance(given, Tensor) else given
        got = as_array(outcome.values[0], mask.shape, "float", f"{case.note}: the bias")
        if np.isnan(got).any():
            raise WrongError(f"{case.note}: the bias holds NaN")
        if (got[mask] != 0).any():
            raise WrongError(f"{case.note}: a visible cell is not 0")
        if (got[~mask] != -np.inf).any():
            raise WrongError(f"{case.note}: a blocked cell is not -inf")
        if dtype.name != "bfloat16" and got.dtype != dtype.name:  # NumPy has no bfloat16
            raise WrongError(f"{case.note}: the dtype is {got.dtype}")
    unchanged(outcomes)


def plain_cells(rng):
    """All visible, all blocked, no cells, and a single one."""
    masks = (np.ones((3, 3), bool), np.zeros((2, 3), bool), np.ones((0, 4), bool), np.array(False))
    calls = [[m, DType("numpy", "float32")] for m in masks]
    calls += [[Tensor(m), DType("torch", "float16")] for m in masks]
    return [Case([Call(args)], f"shape {list(np.shape(getattr(args[0], 'value', args[0])))}")
            for args in calls]  # fmt: skip


BIAS = Hidden(
    "2.4",
    [
        Claim("0 and -inf in NumPy's types", numpy_masks, judge_bias, 2),
        Claim("0 and -inf in torch's types", torch_masks, judge_bias, 2),
        Claim("nothing blocked, nothing visible, no cells", plain_cells, judge_bias),
    ],
)

# --- 2.5 open_row --------------------------------------------------------------------------------


def any_masks(rng, shapes):
    """Random masks, a random row of each, and its first and last."""
    cases = []
    for shape in shapes:
        mask = rng.random(shape) < 0.5
        for row in {0, shape[-2] - 1, int(rng.integers(shape[-2]))}:
            cases.append(Case([Call([mask.copy(), row])], f"shape {list(shape)}, row {row}"))
    return cases


def flat_masks(rng):
    """[Tq, Tk], square or not."""
    return any_masks(rng, ((5, 5), (3, 7), (6, 2), (1, 4)))


def stacked_masks(rng):
    """With axes in front."""
    return any_masks(rng, ((4, 1, 5, 5), (2, 3, 4, 6), (3, 5, 5), (5, 2, 2)))


def judge_opened(cases: Cases, outcomes: Outcomes) -> None:
    """That row is open, and every other cell as it was."""
    for case, outcome in zip(cases, outcomes, strict=True):
        mask, row = case.calls[0].args
        got = returns_bool(outcome.values[0], mask.shape, f"{case.note}: the mask")
        if not got[..., row, :].all():
            raise WrongError(f"{case.note}: a key is still hidden from this query")
        others = np.arange(mask.shape[-2]) != row
        if (got[..., others, :] != mask[..., others, :]).any():
            raise WrongError(f"{case.note}: the row of another query changed")
    unchanged(outcomes)


def twice(rng):
    """Opening a row that is open changes nothing."""
    mask = causal().matrix(6)
    mask[2] = True
    return [Case([Call([mask, 2]), Call([mask, 5])], "a row that is open already")]


def judge_twice(cases: Cases, outcomes: Outcomes) -> None:
    """The same mask comes back."""
    mask = cases[0].calls[0].args[0]
    for got in outcomes[0].values:
        equal(returns_bool(got, mask.shape), mask, "a row that was open already: the mask")
    unchanged(outcomes)


OPEN_ROW = Hidden(
    "2.5",
    [
        Claim("opens one row of any mask", flat_masks, judge_opened),
        Claim("in every sequence and head", stacked_masks, judge_opened),
        Claim("an open row stays open", twice, judge_twice, 0.5),
    ],
)

# --- 2.6 ROW_WEIGHTS -----------------------------------------------------------------------------

SCORES = np.array([0.5, 1, 1, 0.5, 0.75])


def judge_weights(cases: Cases, outcomes: Outcomes) -> None:
    """Five numbers, right to three decimals."""
    got = as_array(outcomes[0].values[0], (5,), "number", "the row")
    if abs(got.sum() - 1) > 0.005:
        raise WrongError("the weights do not add up to 1")
    want = np.exp(SCORES) / np.exp(SCORES).sum()
    wrong = ~(abs(got - want) < 6e-4)
    if wrong.any():
        raise WrongError(f"{int(wrong.sum())} of the 5 weights are not right")


ROW_WEIGHTS = Hidden("2.6", [Claim("the weights of the open row", the_value, judge_weights)])

HIDDEN = [MATRIX, CAUSAL, AT, BIAS, OPEN_ROW, ROW_WEIGHTS]
