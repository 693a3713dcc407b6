"""Hidden checks of chapter 3: claims about answers, on fresh inputs (teachers only)."""

from collections.abc import Callable, Sequence

import numpy as np

from course_lib.attention import attention
from course_lib.checks.properties import silent_renormalisation
from course_lib.checks.script import Call, Case, Outcome
from course_lib.example import K
from course_lib.masks import causal
from course_tools.exercise_bank.assertions import as_array, as_tuple, close, unchanged
from course_tools.exercise_bank.claims import Claim, Hidden, WrongError

Cases = Sequence[Case]
Outcomes = Sequence[Outcome]
Rng = np.random.Generator

# --- 3.1, 3.2 and 3.4: values --------------------------------------------------------------------

_ON_QUERY = np.array([[0.0, 0.0, 1.0, 2.0]])
_ON_WEIGHTS = attention(_ON_QUERY, K, K, causal(), q_pos=[3])[1][0]
_ROW_MASK = np.array([True, True, False, True, False])
_ROW = np.where(_ROW_MASK, [0.6, 0.3, 0.0, 0.1, 0.0], 0.0)


def _the_value(rng: Rng) -> Cases:
    return [Case(calls=())]


def _is_a_row(visible: np.ndarray) -> Callable[[Cases, Outcomes], None]:
    """Judge: nothing on blocked cells, something on visible ones, sum 1."""

    def judge(cases: Cases, outcomes: Outcomes) -> None:
        row = as_array(outcomes[0].values[0], (5,), "number", "the row").astype(float)
        if not np.isfinite(row).all():
            raise WrongError("the row holds NaN or inf")
        if (row[~visible] != 0).any():
            raise WrongError("a blocked token has weight")
        if (row[visible] <= 0).any():
            raise WrongError("a visible token has no weight; no visible score is that low")
        if abs(row.sum() - 1) > 5e-4:
            raise WrongError(f"the weights add up to {row.sum():.4f}; a row of weights sums to 1")

    return judge


def _is_close_to(want: np.ndarray) -> Callable[[Cases, Outcomes], None]:
    def judge(cases: Cases, outcomes: Outcomes) -> None:
        close(outcomes[0].values[0], want, "the row", rtol=0, atol=3e-4)

    return judge


def _judge_silent(cases: Cases, outcomes: Outcomes) -> None:
    wrong = silent_renormalisation(cases[0], outcomes[0])
    if wrong is not None:
        raise WrongError(str(wrong))


# --- 3.3 masked_softmax --------------------------------------------------------------------------


def _reference(scores: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Row by row in float64, without tricks: independent of the library and of our answer."""
    may = np.broadcast_to(mask, scores.shape)
    weights = np.zeros(scores.shape)
    for row in np.ndindex(scores.shape[:-1]):
        seen = np.flatnonzero(may[row])
        if len(seen):
            shown = scores[row][seen].astype(np.float64)
            powers = np.exp(shown - shown.max())
            weights[row][seen] = powers / powers.sum()
    return weights


def _rule(rng: Rng, *shape: int) -> np.ndarray:
    """A random mask without an empty row and, where there is room, with a blocked cell a row."""
    mask = rng.random(shape) < 0.5
    first = rng.integers(shape[-1], size=(*shape[:-1], 1))
    np.put_along_axis(mask, first, True, axis=-1)
    if shape[-1] > 1:
        np.put_along_axis(mask, (first + 1) % shape[-1], False, axis=-1)
    return mask


def _softmax_case(scores: np.ndarray, mask: np.ndarray, note: str) -> Case:
    return Case([Call([scores, mask])], note)


def _judge_softmax(cases: Cases, outcomes: Outcomes, float32: float = 2e-5) -> None:
    """Values, exact zeros, sums, dtype, against the reference; `float32` is its tolerance."""
    for case, outcome in zip(cases, outcomes, strict=True):
        scores, mask = case.calls[0].args
        what = f"the weights ({case.note})"
        weights = as_array(outcome.values[0], scores.shape, "float", what)
        _wide_enough(weights, scores, what)
        tolerance = 1e-8 if scores.dtype == np.float64 else float32
        with np.errstate(all="ignore"):
            want = _reference(scores, mask)
        if np.isnan(weights).any():
            raise WrongError(f"{what} hold NaN, though no visible score is NaN")
        if (weights[~np.broadcast_to(mask, scores.shape)] != 0).any():
            raise WrongError(f"{what}: a blocked cell has a weight that is not exactly 0")
        close(weights, want, what, rtol=tolerance, atol=tolerance)


def _wide_enough(got: np.ndarray, given: np.ndarray, what: str) -> None:
    if got.dtype.itemsize < given.dtype.itemsize:
        raise WrongError(
            f"{what}: {given.dtype} came in and {got.dtype} goes out; digits were thrown away"
        )


def _ordinary(rng: Rng) -> Cases:
    n, m = rng.integers(6, 9), rng.integers(9, 12)
    return [
        _softmax_case(rng.normal(size=(n, m)) * 2, _rule(rng, n, m), "a mask of its own for each"),
        _softmax_case(rng.normal(size=(n, n)) * 2, _rule(rng, n, n), "as many queries as keys"),
        _softmax_case(rng.normal(size=m) * 2, _rule(rng, m), "a single row"),
        _softmax_case(rng.normal(size=(3, 300)), _rule(rng, 3, 300), "300 keys"),
        _softmax_case(rng.normal(size=(n, m)) - 3, np.ones((n, m), bool), "everything visible"),
    ]


def _more_axes(rng: Rng) -> Cases:
    b, h, n, m = 3, 2, 4, 5
    scores = rng.normal(size=(b, h, n, m)).astype(np.float32)
    return [
        _softmax_case(scores, _rule(rng, n, m), "mask [T_q, T_k] for scores [B, H, T_q, T_k]"),
        _softmax_case(scores, _rule(rng, b, 1, n, m), "mask [B, 1, T_q, T_k]"),
        _softmax_case(scores, _rule(rng, b, 1, 1, m), "mask [B, 1, 1, T_k]"),
        _softmax_case(scores, _rule(rng, b, h, n, m), "mask [B, H, T_q, T_k]"),
        _softmax_case(scores[:, 0].astype(np.float64), _rule(rng, b, n, m), "three axes"),
    ]


def _rubbish(rng: Rng) -> Cases:
    cases = []
    for dtype in (np.float32, np.float64):
        for rubbish in (np.nan, np.inf, -np.inf, 3e38, -3e38, 150.0):
            mask = _rule(rng, 4, 6)
            scores = np.where(mask, rng.normal(size=mask.shape), rubbish).astype(dtype)
            cases.append(_softmax_case(scores, mask, f"{rubbish:g} in the blocked cells"))
    return cases


def _empty(rng: Rng) -> Cases:
    some = _rule(rng, 5, 4)
    some[[1, 3]] = False
    stacked = _rule(rng, 2, 1, 3, 4)
    stacked[1, 0, 2] = False
    rubbish = np.where(some, rng.normal(size=some.shape), np.nan)
    return [
        _softmax_case(rng.normal(size=(5, 4)), some, "two rows of five see nothing"),
        _softmax_case(rng.normal(size=(2, 3, 3, 4)).astype(np.float32), stacked, "one row"),
        _softmax_case(rubbish, some, "rows that see nothing, with NaN in them"),
        _softmax_case(rng.normal(size=(2, 3)), np.zeros((2, 3), bool), "no row sees anything"),
        _softmax_case(rng.normal(size=3), np.zeros(3, bool), "a single row that sees nothing"),
    ]


def _broken(rng: Rng) -> Cases:
    cases = []
    for dtype in (np.float32, np.float64):
        mask = _rule(rng, 6, 5)
        mask[4] = False
        scores = rng.normal(size=mask.shape).astype(dtype)
        for row in (1, 3):
            scores[row, rng.choice(np.flatnonzero(mask[row]))] = np.nan
        cases.append(_softmax_case(scores, mask, "NaN in a visible score of rows 1 and 3"))
    return cases


def _judge_broken(cases: Cases, outcomes: Outcomes) -> None:
    for case, outcome in zip(cases, outcomes, strict=True):
        scores, mask = case.calls[0].args
        weights = as_array(outcome.values[0], scores.shape, "float", "the weights")
        for row in range(len(scores)):
            if np.isnan(scores[row][mask[row]]).any():
                if not np.isnan(weights[row][mask[row]]).all():
                    raise WrongError(
                        f"row {row} has a NaN in a visible score, and its visible weights are not "
                        "all NaN: the broken number was hidden"
                    )
            elif np.isnan(weights[row]).any():
                raise WrongError(f"row {row} has no NaN in a visible score, but in its weights")
            else:
                want = _reference(scores[row], mask[row])
                close(weights[row], want, f"row {row}, beside broken rows")


def _extreme(rng: Rng) -> Cases:
    cases = []
    for dtype in (np.float32, np.float64):
        for level in (1000.0, -1000.0, -2e4, -2e9, -1e30, 1e30):
            mask = _rule(rng, 3, 6)
            step = 1.0 if abs(level) < 1e6 else abs(level) / 8  # so that the sum is not rounded off
            ranks = rng.permuted(np.tile(np.arange(6), (3, 1)), axis=1)
            scores = (level + step * ranks).astype(dtype)
            cases.append(_softmax_case(scores, mask, f"visible scores near {level:g}"))
        spread = (np.array([[-1e30, 0, 5, 1e30], [-1e3, 1e3, 1e3, 1e8]])).astype(dtype)
        shown = np.array([[True, False, True, True], [True, True, True, False]])
        cases.append(_softmax_case(spread, shown, "very low and very high scores in one row"))
        low = np.array([[-np.inf, 0, 1], [2, -np.inf, -np.inf]], dtype=dtype)
        seen = np.array([[True, True, True], [True, True, False]])
        cases.append(_softmax_case(low, seen, "visible scores of -inf beside finite ones"))
        apart = np.array([[1000, 1001, 7], [0, 1, 7], [-1000, -1001, 7]], dtype=dtype)
        cases.append(_softmax_case(apart, np.array([True, True, False]), "rows far apart"))
    return cases


def _judge_extreme(cases: Cases, outcomes: Outcomes) -> None:
    """Float32 that goes through a logarithm near 20,000 is right to three digits: that is legal."""
    _judge_softmax(cases, outcomes, float32=5e-3)


def _judge_untouched_softmax(cases: Cases, outcomes: Outcomes) -> None:
    _judge_softmax(cases, outcomes)
    unchanged(outcomes)


# --- 3.5 causal_attention ------------------------------------------------------------------------


def _qkv(
    rng: Rng, lead: Sequence[int], n: int, d_k: int, d_v: int, dtype: type = np.float64
) -> list[np.ndarray]:
    return [rng.normal(size=(*lead, n, d)).astype(dtype) for d in (d_k, d_k, d_v)]


def _judge_attention(cases: Cases, outcomes: Outcomes) -> None:
    for case, outcome in zip(cases, outcomes, strict=True):
        q, k, v = case.calls[0].args
        got = as_tuple(outcome.values[0], 2)
        wide = [x.astype(np.float64) for x in (q, k, v)]
        wanted = attention(*wide, causal())
        tolerance = 1e-9 if q.dtype == np.float64 else 1e-4
        for name, value, want in zip(("output", "weights"), got, wanted, strict=True):
            what = f"the {name} ({case.note})"
            array = as_array(value, want.shape, "float", what)
            _wide_enough(array, q, what)
            close(array, want, what, rtol=tolerance, atol=tolerance)


def _sizes(rng: Rng) -> Cases:
    return [
        Case([Call(_qkv(rng, (), n, d_k, d_v))], f"T = {n}, d_k = {d_k}, d_v = {d_v}")
        for n, d_k, d_v in (
            (7, 3, 5),
            (int(rng.integers(8, 12)), 16, 2),
            (4, 1, 6),
            (130, 2, 3),
            (1, 5, 2),
        )
    ]


def _batches(rng: Rng) -> Cases:
    cases = [
        Case(
            [Call(_qkv(rng, lead, 6, 3, 4, dtype))], f"leading axes {list(lead)}, {dtype.__name__}"
        )
        for lead, dtype in (((3,), np.float64), ((2, 3), np.float32), ((2, 1, 3), np.float64))
    ]
    q, k, v = _qkv(rng, (2, 3), 5, 4, 7)
    cases.append(Case([Call([q, k[:, :1], v[:, :1]])], "q [2, 3, ...] with k and v [2, 1, ...]"))
    cases.append(Case([Call([q[0, 0], k[0, 0], v[:, 0]])], "q and k alone, v for two sentences"))
    cases.append(Case([Call([q[:, :1], k, v])], "q [2, 1, ...] with k and v [2, 3, ...]"))
    return cases


def _futures(rng: Rng) -> Cases:
    """For each token: the call, and the call with this token's q, k and v changed."""
    q, k, v = _qkv(rng, (2,), 6, 3, 4)
    cases = []
    for j in range(6):
        changed = [x.copy() for x in (q, k, v)]
        for x in changed:
            x[:, j] += rng.normal(size=x[:, j].shape)
        cases.append(Case([Call([q, k, v]), Call(changed)], f"another token at position {j}"))
    return cases


def _judge_futures(cases: Cases, outcomes: Outcomes) -> None:
    for j, outcome in enumerate(outcomes):
        before, after = (
            as_array(as_tuple(value, 2)[0], (2, 6, 4), "float", "the output")
            for value in outcome.values
        )
        moved = np.abs(after - before).max(axis=(0, 2))
        if not (moved[:j] < 1e-12).all():
            i = int(np.argmax(~(moved[:j] < 1e-12)))
            raise WrongError(
                f"another token at position {j} changes the output at position {i}, before it: "
                "the future leaks into the past"
            )
        if not (moved[j:] > 1e-9).all():
            i = j + int(np.argmax(~(moved[j:] > 1e-9)))
            raise WrongError(
                f"the output at position {i} does not depend on the token at position {j}, which "
                "it may use"
            )


def _any(rng: Rng) -> Cases:
    return [
        Case([Call(_qkv(rng, (2,), 5, 3, 4))], "random tokens"),
        Case([Call(_qkv(rng, (), 9, 2, 3, np.float32))], "random tokens, float32"),
    ]


def _judge_weights(cases: Cases, outcomes: Outcomes) -> None:
    """What must hold for any weights, without a reference."""
    for case, outcome in zip(cases, outcomes, strict=True):
        q, _, v = case.calls[0].args
        output, weights = as_tuple(outcome.values[0], 2)
        n = q.shape[-2]
        weights = as_array(weights, (*q.shape[:-1], n), "float", "the weights")
        output = as_array(output, v.shape, "float", "the output")
        visible = np.tri(n, dtype=bool)
        if (weights[..., ~visible] != 0).any():
            raise WrongError("a later position has a weight that is not exactly 0")
        if not (weights[..., visible] > 0).all():
            raise WrongError("a visible position has no weight")
        if not np.allclose(weights.sum(axis=-1), 1, atol=1e-5):
            raise WrongError("a row of the weights does not sum to 1")
        close(output, weights @ v, "the output, against your weights @ v")
        equal_rows = np.tri(n) / np.arange(1, n + 1)[:, None]
        if n > 1 and np.allclose(weights, equal_rows):
            raise WrongError("all visible weights of a row are equal, whatever q and k hold")


def _loud(rng: Rng) -> Cases:
    cases = []
    for dtype in (np.float32, np.float64):
        q, k, v = _qkv(rng, (2,), 6, 4, 3, dtype)
        cases.append(Case([Call([q, k * 4000, v])], "scores in the thousands"))
        q, k, v = np.ones((5, 4), dtype), np.zeros((5, 4), dtype), v[0, :5]
        k[:, 0] = [0, 1, 0, 1, 2000]
        cases.append(Case([Call([q, k, v])], "a future score far above the others"))
        cases.append(Case([Call([q, k - 3000, v])], "all scores far below zero"))
    return cases


def _judge_loud(cases: Cases, outcomes: Outcomes) -> None:
    """Like `_judge_attention`, but float32 scores of thousands carry rounding into exp."""
    for case, outcome in zip(cases, outcomes, strict=True):
        q, k, v = case.calls[0].args
        got = as_tuple(outcome.values[0], 2)
        wanted = attention(*(x.astype(np.float64) for x in (q, k, v)), causal())
        for name, value, want in zip(("output", "weights"), got, wanted, strict=True):
            tolerance = 1e-6 if q.dtype == np.float64 else 2e-2
            close(value, want, f"the {name} ({case.note})", rtol=tolerance, atol=tolerance)


def _judge_untouched_attention(cases: Cases, outcomes: Outcomes) -> None:
    _judge_weights(cases, outcomes)
    unchanged(outcomes)


HIDDEN: list[Hidden] = [
    Hidden(
        "3.1",
        [
            Claim("a row: nothing for the blocked, sum 1", _the_value,
                  _is_a_row(np.array([True] * 4 + [False]))),
            Claim("the right weights", _the_value, _is_close_to(_ON_WEIGHTS), weight=3),
        ],
    ),
    Hidden(
        "3.2",
        [
            Claim("a row: nothing for the blocked, sum 1", _the_value, _is_a_row(_ROW_MASK)),
            Claim("the right weights", _the_value, _is_close_to(_ROW), weight=3),
        ],
    ),
    Hidden(
        "3.3",
        [
            Claim("a softmax over the visible keys", _ordinary, _judge_softmax, weight=2),
            Claim("with any leading axes, the mask broadcast", _more_axes, _judge_softmax),
            Claim("what is blocked makes no difference", _rubbish, _judge_softmax),
            Claim("a row that sees nothing gets zeros", _empty, _judge_softmax),
            Claim("a NaN in a visible score stays visible", _broken, _judge_broken),
            Claim("very large, very low and infinite scores", _extreme, _judge_extreme),
            Claim("the input stays as it was", _ordinary, _judge_untouched_softmax, weight=0.5),
        ],
    ),
    Hidden(
        "3.4",
        [Claim("renormalising looks healthy here and is wrong", _the_value, _judge_silent)],
    ),
    Hidden(
        "3.5",
        [
            Claim("output and weights of one sentence, any size", _sizes, _judge_attention, 2),
            Claim("any leading axes, also broadcast ones", _batches, _judge_attention, 1.5),
            Claim("each output depends on the past, all of it, and on nothing else", _futures,
                  _judge_futures),
            Claim("weights are shares: blocked 0, sum 1, and the output is their mean", _any,
                  _judge_weights),
            Claim("scores in the thousands", _loud, _judge_loud),
            Claim("the input stays as it was", _any, _judge_untouched_attention, weight=0.5),
        ],
    ),
]  # fmt: skip
