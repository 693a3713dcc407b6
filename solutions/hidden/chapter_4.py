"""Hidden checks of chapter 4: claims about answers, on fresh inputs (teachers only)."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from course_lib.attention import attention
from course_lib.checks.script import Call, Case, Outcome
from course_lib.masks import causal, not_padding, same_document, sliding_window
from course_tools.exercise_bank.assertions import as_array, close, equal, returns_bool, unchanged
from course_tools.exercise_bank.claims import Claim, Hidden, WrongError

Cases = Sequence[Case]
Outcomes = Sequence[Outcome]
Rng = np.random.Generator

# --- 4.1 multi_head_causal_attention --------------------------------------------------------------


def _layer(x: np.ndarray, w_qkv: np.ndarray, w_out: np.ndarray, n_heads: int) -> np.ndarray:
    """The reference: one head after another, in float64."""
    x, w_qkv, w_out = (a.astype(np.float64) for a in (x, w_qkv, w_out))
    width = x.shape[-1]
    d = width // n_heads
    heads = []
    for h in range(n_heads):
        q, k, v = (x @ w_qkv[:, third * width + h * d :][:, :d] for third in range(3))
        heads.append(attention(q, k, v, causal())[0])
    return np.concatenate(heads, axis=-1) @ w_out


def _layer_args(
    rng: Rng, batch: int, length: int, n_heads: int, d: int, dtype: type = np.float64
) -> list[Any]:
    width = n_heads * d
    x = rng.normal(size=(batch, length, width))
    w_qkv = rng.normal(size=(width, 3 * width))
    w_out = rng.normal(size=(width, width)) / np.sqrt(width)
    w_qkv[:, : 2 * width] /= np.sqrt(width) / 1.5  # weights that are neither equal nor one-hot
    return [*(a.astype(dtype) for a in (x, w_qkv, w_out)), n_heads]


def _layer_case(rng: Rng, *sizes: int, dtype: type = np.float64) -> Case:
    note = "B = {}, T = {}, H = {}, d = {}".format(*sizes)
    return Case([Call(_layer_args(rng, *sizes, dtype=dtype))], f"{note}, {dtype.__name__}")


def _layers(rng: Rng) -> Cases:
    return [
        _layer_case(rng, 2, 7, 3, 4),
        _layer_case(rng, 3, int(rng.integers(8, 11)), 2, 5),
        _layer_case(rng, 1, 70, 2, 2),
    ]


def _small_layers(rng: Rng) -> Cases:
    return [
        _layer_case(rng, 2, 5, 1, 6),
        _layer_case(rng, 2, 5, 6, 1),
        _layer_case(rng, 1, 4, 3, 2),
        _layer_case(rng, 4, 1, 2, 3),
        _layer_case(rng, 2, 3, 2, 3, dtype=np.float32),
    ]


def _judge_layer(cases: Cases, outcomes: Outcomes) -> None:
    for case, outcome in zip(cases, outcomes, strict=True):
        for call, value in zip(case.calls, outcome.values, strict=True):
            x = call.args[0]
            what = f"the output ({case.note})"
            array = as_array(value, x.shape, "float", what)
            if array.dtype.itemsize < x.dtype.itemsize:
                raise WrongError(f"{what}: {x.dtype} came in and {array.dtype} goes out")
            tolerance = 1e-8 if x.dtype == np.float64 else 1e-4
            close(array, _layer(*call.args), what, rtol=tolerance, atol=tolerance)


def _one_token_changed(rng: Rng) -> Cases:
    args = _layer_args(rng, 2, 6, 2, 3)
    cases = []
    for j in range(6):
        x = args[0].copy()
        x[0, j] += rng.normal(size=x[0, j].shape)
        calls = [Call(args), Call([x, *args[1:]])]
        cases.append(Case(calls, f"another token at position {j} of sentence 0"))
    return cases


def _judge_influence(cases: Cases, outcomes: Outcomes) -> None:
    for j, outcome in enumerate(outcomes):
        before, after = (as_array(v, (2, 6, 6), "float", "the output") for v in outcome.values)
        if np.isnan(before).any() or np.isnan(after).any():
            raise WrongError("the output holds NaN")
        moved = np.abs(after - before).max(axis=-1)
        if (moved[1] > 1e-12).any():
            raise WrongError("another token in sentence 0 changes the output of sentence 1")
        for i in range(6):
            if i < j and moved[0, i] > 1e-12:
                raise WrongError(
                    f"another token at position {j} changes the output at position {i}, before it: "
                    "the future leaks into the past"
                )
            if i >= j and moved[0, i] < 1e-9:
                raise WrongError(
                    f"the output at position {i} does not depend on the token at position {j}, "
                    "which it may use"
                )


def _loud_layers(rng: Rng) -> Cases:
    cases = []
    for _ in range(2):
        x, w_qkv, w_out, n_heads = _layer_args(rng, 2, 5, 2, 4)
        w_qkv[:, :16] *= 60  # queries and keys
        cases.append(Case([Call([x, w_qkv, w_out, n_heads])], "scores in the thousands"))
    return cases


def _judge_untouched_layer(cases: Cases, outcomes: Outcomes) -> None:
    _judge_layer(cases, outcomes)
    unchanged(outcomes)


# --- 4.2 causal_and_padding -----------------------------------------------------------------------


def _padding(lengths: np.ndarray, total: int, side: str) -> np.ndarray:
    """The reference, from the library's rules; padded queries see themselves only."""
    slot = np.arange(total)
    first = np.where(side == "left", total - lengths, 0)[:, None]
    real = (slot >= first) & (slot < first + lengths[:, None])
    mask = (causal() & not_padding(real)).matrix(total)
    return np.where(
        real[:, None, :, None], mask, sliding_window(1).matrix(total) & causal().matrix(total)
    )


def _judge_padding(cases: Cases, outcomes: Outcomes) -> None:
    for case, outcome in zip(cases, outcomes, strict=True):
        want = _padding(*case.calls[0].args)
        what = f"the mask ({case.note})"
        equal(returns_bool(outcome.values[0], want.shape, what), want, what)


def _padding_case(lengths: Sequence[int], total: int, side: str) -> Case:
    note = f"lengths {list(map(int, lengths))} of {total} slots, padding on the {side}"
    return Case([Call([np.array(lengths), total, side])], note)


def _one_side(side: str) -> Callable[[Rng], Cases]:
    def cases(rng: Rng) -> Cases:
        total = int(rng.integers(6, 9))
        lengths = np.append(rng.permutation(np.arange(1, total))[:4], total - 2)
        return [
            _padding_case(lengths, total, side),
            _padding_case(rng.integers(1, 5, size=3), 7, side),
            _padding_case(rng.integers(20, 40, size=2), 40, side),
        ]

    return cases


def _edges(rng: Rng) -> Cases:
    return [
        _padding_case(lengths, total, side)
        for side in ("left", "right")
        for lengths, total in (([0, 4, 2], 4), ([1], 1), ([0], 1), ([3, 3], 3), ([2, 2, 1], 6))
    ]


def _judge_no_sentence_read(cases: Cases, outcomes: Outcomes) -> None:
    """Without a reference: no empty row, and words and padding never see each other."""
    for case, outcome in zip(cases, outcomes, strict=True):
        lengths, total, side = case.calls[0].args
        shape = (len(lengths), 1, total, total)
        mask = returns_bool(outcome.values[0], shape, f"the mask ({case.note})")[:, 0]
        for sentence, length, one in zip(mask, lengths, range(len(lengths)), strict=True):
            words = np.zeros(total, dtype=bool)
            words[total - length if side == "left" else 0 :][:length] = True
            if not sentence.any(axis=1).all():
                raise WrongError(f"sentence {one} has a row that sees nothing ({case.note})")
            if sentence[words][:, ~words].any():
                raise WrongError(f"sentence {one}: a word sees padding ({case.note})")
            if sentence[~words][:, words].any():
                raise WrongError(f"sentence {one}: a padded slot sees a word ({case.note})")
            if np.triu(sentence, 1).any():
                raise WrongError(f"sentence {one}: a slot sees a later slot ({case.note})")
            if sentence[words][:, words].sum() != length * (length + 1) // 2:
                raise WrongError(f"sentence {one}: a word does not see all words up to itself")


def _both_sides(rng: Rng) -> Cases:
    return [*_one_side("left")(rng), *_one_side("right")(rng), *_edges(rng)]


def _judge_untouched_padding(cases: Cases, outcomes: Outcomes) -> None:
    _judge_padding(cases, outcomes)
    unchanged(outcomes)


# --- 4.3 document_mask ----------------------------------------------------------------------------


def _ids_case(ids: Sequence[int]) -> Case:
    return Case([Call([np.array(ids)])], f"ids {list(map(int, ids))}")


def _in_one_piece(rng: Rng) -> Cases:
    pieces = rng.integers(1, 4, size=4)
    return [
        _ids_case(np.repeat(np.arange(4), pieces)),
        _ids_case(np.repeat([9, 2, 5], [2, 3, 1])),
        _ids_case(np.repeat([4, 1], rng.integers(2, 5, size=2))),
    ]


def _in_pieces(rng: Rng) -> Cases:
    return [
        _ids_case(rng.integers(0, 3, size=9)),
        _ids_case(rng.integers(0, 4, size=12)),
        Case([Call([rng.integers(0, 9, size=100)])], "100 slots of 9 documents"),
        _ids_case(np.tile(rng.permutation(3), 3)),
        _ids_case([5, 1, 5, 1, 1, 5]),
    ]


def _odd_ids(rng: Rng) -> Cases:
    large = rng.choice([-7, 0, 1000, 10**12], size=10)
    return [
        _ids_case(large),
        _ids_case(rng.permutation(8)),
        _ids_case([3] * 6),
        _ids_case([0] * 5),
        _ids_case([-1]),
    ]


def _renamed(rng: Rng) -> Cases:
    ids = rng.integers(0, 4, size=10)
    names = rng.permutation(100)[:4] - 50
    calls = [Call([ids]), Call([names[ids]])]
    return [Case(calls, "the same documents under other numbers")]


def _judge_documents(cases: Cases, outcomes: Outcomes) -> None:
    for case, outcome in zip(cases, outcomes, strict=True):
        for call, value in zip(case.calls, outcome.values, strict=True):
            (ids,) = call.args
            want = (causal() & same_document(ids)).matrix(len(ids)).reshape(len(ids), -1)
            what = f"the mask ({case.note})"
            equal(returns_bool(value, want.shape, what), want, what)


def _judge_untouched_documents(cases: Cases, outcomes: Outcomes) -> None:
    _judge_documents(cases, outcomes)
    unchanged(outcomes)


# --- 4.4 for_multihead_attention ------------------------------------------------------------------


def _mask_case(mask: np.ndarray) -> Case:
    return Case([Call([mask])], f"mask of shape {list(mask.shape)}")


def _two_axes(rng: Rng) -> Cases:
    return [
        _mask_case(rng.random((4, 6)) < 0.5),
        _mask_case(causal().matrix(5)),
        _mask_case(rng.random((5, 5)) < 0.3),
        _mask_case(np.array([[True]])),
    ]


def _four_axes(rng: Rng) -> Cases:
    return [
        _mask_case(rng.random((2, 3, 4, 5)) < 0.5),
        _mask_case(rng.random((4, 2, 3, 3)) < 0.5),
        _mask_case(rng.random((3, 3, 5, 2)) < 0.5),
    ]


def _ones(rng: Rng) -> Cases:
    shapes = ((1, 3, 4, 5), (3, 1, 4, 5), (1, 1, 3, 2))
    return [_mask_case(rng.random(shape) < 0.5) for shape in shapes]


def _judge_module(cases: Cases, outcomes: Outcomes) -> None:
    for case, outcome in zip(cases, outcomes, strict=True):
        (mask,) = case.calls[0].args
        want = [~grid for sentence in mask for grid in sentence] if mask.ndim == 4 else ~mask
        what = f"the result ({case.note})"
        shape = np.shape(want)
        got = as_array(outcome.values[0], shape, "bool", what)
        equal(got, np.array(want), what)


def _judge_untouched_module(cases: Cases, outcomes: Outcomes) -> None:
    _judge_module(cases, outcomes)
    unchanged(outcomes)


# --- 4.5 SHAPES -----------------------------------------------------------------------------------

_SHAPES = {
    "q": (2, 3, 7, 4),
    "k_transposed": (2, 3, 4, 7),
    "scores": (2, 3, 7, 7),
    "causal_mask": (1, 1, 7, 7),
    "padding_mask": (2, 1, 1, 7),
    "weights": (2, 3, 7, 7),
    "output": (2, 3, 7, 5),
    "merged": (2, 7, 15),
}


def _the_value(rng: Rng) -> Cases:
    return [Case(calls=())]


def _are_shapes(*names: str) -> Callable[[Cases, Outcomes], None]:
    def judge(cases: Cases, outcomes: Outcomes) -> None:
        shapes = outcomes[0].values[0]
        if not isinstance(shapes, dict):
            raise WrongError(f"SHAPES is a {type(shapes).__name__}; the task asks for a dict")
        for name in names:
            if name not in shapes:
                raise WrongError(f"SHAPES has no entry {name!r}")
            shape = shapes[name]
            if not isinstance(shape, (tuple, list)) or tuple(shape) != _SHAPES[name]:
                raise WrongError(f"the shape of {name!r} is wrong")

    return judge


HIDDEN: list[Hidden] = [
    Hidden(
        "4.1",
        [
            Claim("the layer, at sizes that all differ", _layers, _judge_layer, weight=3),
            Claim("one head, heads of one number, one token, float32", _small_layers, _judge_layer),
            Claim("each output depends on its past, all of it, and on nothing else",
                  _one_token_changed, _judge_influence, weight=1.5),
            Claim("scores in the thousands", _loud_layers, _judge_layer),
            Claim("the input stays as it was", _layers, _judge_untouched_layer, weight=0.5),
        ],
    ),
    Hidden(
        "4.2",
        [
            Claim("padding on the left", _one_side("left"), _judge_padding, weight=1.5),
            Claim("padding on the right", _one_side("right"), _judge_padding, weight=1.5),
            Claim("empty sentences, full ones, a single slot", _edges, _judge_padding),
            Claim("words see words, padding sees itself, no row is empty", _both_sides,
                  _judge_no_sentence_read),
            Claim("the input stays as it was", _edges, _judge_untouched_padding, weight=0.5),
        ],
    ),
    Hidden(
        "4.3",
        [
            Claim("documents in one piece", _in_one_piece, _judge_documents),
            Claim("documents in pieces", _in_pieces, _judge_documents, weight=2),
            Claim("any integers as ids", _odd_ids, _judge_documents),
            Claim("other names, the same mask", _renamed, _judge_documents, weight=0.5),
            Claim("the input stays as it was", _in_pieces, _judge_untouched_documents, weight=0.5),
        ],
    ),
    Hidden(
        "4.4",
        [
            Claim("masks of two axes", _two_axes, _judge_module),
            Claim("masks of four axes, all heads of sentence 0 first", _four_axes, _judge_module, 2),
            Claim("one sentence, one head, or both", _ones, _judge_module),
            Claim("the input stays as it was", _four_axes, _judge_untouched_module, weight=0.5),
        ],
    ),
    Hidden(
        "4.5",
        [
            Claim("queries and keys", _the_value, _are_shapes("q", "k_transposed")),
            Claim("scores and weights", _the_value, _are_shapes("scores", "weights")),
            Claim("masks no larger than they need to be", _the_value,
                  _are_shapes("causal_mask", "padding_mask")),
            Claim("output and merged output", _the_value, _are_shapes("output", "merged")),
        ],
    ),
]  # fmt: skip
