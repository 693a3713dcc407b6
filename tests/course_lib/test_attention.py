"""Attention is SDPA, with the corner cases that SDPA leaves to chance made explicit."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import flex_attention

from course_lib.attention import attention, masked_softmax, scores
from course_lib.example import TOKENS, K, Q, V
from course_lib.masks import causal, not_padding, prefix_lm, sinks, sliding_window, to_additive
from course_lib.trace import trace

pytestmark = pytest.mark.fast

# Half precision is computed in float32 inside and rounded once at the end: one unit in the last
# place of values up to about 4.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def random_qkv(seed, shape_q, shape_k, d_v, dtype=torch.float64):
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return torch.from_numpy(rng.standard_normal(shape)).to(dtype)

    *lead, n_q, d = shape_q
    return draw(*lead, n_q, d), draw(*lead, shape_k, d), draw(*lead, shape_k, d_v)


shapes = st.tuples(
    st.integers(0, 10_000),  # seed
    st.lists(st.integers(1, 3), max_size=2),  # leading axes
    st.integers(1, 6),  # queries
    st.integers(0, 5),  # keys more than queries
    st.integers(1, 5),  # d_k
    st.integers(1, 5),  # d_v
)


@settings(deadline=None)
@given(shapes, st.sampled_from(list(TOLERANCE)))
def test_attention_equals_sdpa(shape, dtype):
    seed, lead, n_q, extra, d_k, d_v = shape
    n_k = n_q + extra
    q, k, v = random_qkv(seed, (*lead, n_q, d_k), n_k, d_v, dtype)
    mask = causal().tensor(torch.arange(extra, n_k), n_k)
    for ours, theirs in (
        (attention(q, k, v), F.scaled_dot_product_attention(q, k, v)),
        (attention(q, k, v, causal()), F.scaled_dot_product_attention(q, k, v, attn_mask=mask)),
    ):
        assert ours[0].dtype == dtype
        torch.testing.assert_close(ours[0], theirs, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@settings(deadline=None)
@given(shapes)
def test_numpy_and_torch_agree_to_the_last_digits(shape):
    seed, lead, n_q, extra, d_k, d_v = shape
    q, k, v = random_qkv(seed, (*lead, n_q, d_k), n_q + extra, d_v)
    ours = attention(q, k, v, causal())
    numpys = attention(q.numpy(), k.numpy(), v.numpy(), causal())
    for a, b in zip(ours, numpys, strict=True):
        np.testing.assert_allclose(a.numpy(), b, atol=1e-13)


@settings(deadline=None)
@given(shapes, st.data())
def test_the_future_never_changes_the_past(shape, data):
    seed, lead, n, _, d_k, d_v = shape
    q, k, v = random_qkv(seed, (*lead, n, d_k), n, d_v)
    now = data.draw(st.integers(0, n - 1))
    before = attention(q, k, v, causal())[0][..., : now + 1, :]
    for array in (q, k, v):
        array[..., now + 1 :, :] = 1e6
    assert torch.equal(attention(q, k, v, causal())[0][..., : now + 1, :], before)


@settings(deadline=None)
@given(shapes)
def test_rows_of_weights_sum_to_one_and_blocked_weights_are_exactly_zero(shape):
    seed, lead, n, _, d_k, d_v = shape
    q, k, v = random_qkv(seed, (*lead, n, d_k), n, d_v)
    _, weights = attention(q, k, v, sliding_window(2))
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    assert (weights[..., ~sliding_window(2).tensor(n)] == 0).all()


def test_one_query_after_a_cache_is_the_last_row_of_the_whole():
    q, k, v = random_qkv(0, (2, 3, 900, 4), 900, 4)
    whole, _ = attention(q, k, v, causal())
    step, _ = attention(q[..., -1:, :], k, v, causal())
    torch.testing.assert_close(step, whole[..., -1:, :])


def test_positions_of_queries_can_be_given():
    q, k, v = random_qkv(1, (5, 4), 5, 4)
    whole, _ = attention(q, k, v, causal())
    some, _ = attention(q[[3, 0]], k, v, causal(), q_pos=[3, 0])
    torch.testing.assert_close(some, whole[[3, 0]])


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(1, 3), st.integers(1, 5), st.data())
def test_a_ragged_batch_is_each_sequence_alone(seed, batch, groups, longest, data):
    """Sequences of different lengths side by side, keys in any order, padded with -1."""
    rng = np.random.default_rng(seed)
    heads, new = 2 * groups, data.draw(st.integers(1, longest))
    lengths = data.draw(st.lists(st.integers(new, longest), min_size=batch, max_size=batch))
    q = torch.from_numpy(rng.normal(size=(batch, heads, new, 4)))
    k, v = (torch.from_numpy(rng.normal(size=(batch, groups, longest, 4))) for _ in range(2))
    k_pos = np.full((batch, longest), -1)
    for b, n in enumerate(lengths):
        k_pos[b, rng.permutation(longest)[:n]] = np.arange(n)
    q_pos = np.stack([np.arange(n - new, n) for n in lengths])
    rule = causal() & (sliding_window(3) | sinks(1))
    together, weights = attention(q, k, v, rule, q_pos=q_pos, k_pos=k_pos)
    assert (weights[torch.from_numpy(k_pos < 0)[:, None, None].expand_as(weights)] == 0).all()
    for b, n in enumerate(lengths):
        place = torch.from_numpy(np.argsort(k_pos[b])[longest - n :])  # where position 0, 1, ... is
        alone, _ = attention(q[b], k[b][:, place], v[b][:, place], rule)
        torch.testing.assert_close(together[b], alone)


@settings(deadline=None)
@given(shapes, st.integers(1, 3), st.integers(1, 3))
def test_grouped_heads_equal_sdpa(shape, groups, shared):
    seed, lead, n_q, extra, d_k, d_v = shape
    lead = lead[:1] or [1]
    q, _, _ = random_qkv(seed, (*lead, groups * shared, n_q, d_k), n_q, d_v)
    _, k, v = random_qkv(seed, (*lead, groups, n_q, d_k), n_q + extra, d_v)
    theirs = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    torch.testing.assert_close(attention(q, k, v)[0], theirs)
    numpys, weights = attention(q.numpy(), k.numpy(), v.numpy())
    np.testing.assert_allclose(numpys, theirs.numpy(), atol=1e-12)
    assert weights.shape == (*lead, groups * shared, n_q, n_q + extra)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_a_score_mod_caps_or_adds_before_the_mask():
    q, k, v = random_qkv(5, (2, 4, 6, 3), 6, 3)
    slopes = 2.0 ** -torch.arange(1, 5, dtype=torch.float64)[:, None, None]  # ALiBi, 4 heads
    distance = torch.arange(6)[None, :] - torch.arange(6)[:, None]
    bias = slopes * distance
    ours, _ = attention(q, k, v, causal(), score_mod=lambda s: s + bias)
    theirs = F.scaled_dot_product_attention(q, k, v, bias + causal().bias(6, dtype=torch.float64))
    torch.testing.assert_close(ours, theirs)
    flex = flex_attention(q, k, v, score_mod=lambda s, *_: 2 * torch.tanh(s / 2))
    torch.testing.assert_close(
        attention(q, k, v, score_mod=lambda s: 2 * torch.tanh(s / 2))[0], flex
    )


# --- fully masked rows, NaN and inf --------------------------------------------------------------


def test_an_empty_row_gives_exact_zeros_and_finite_gradients():
    q, k, v = (x.requires_grad_() for x in random_qkv(2, (2, 4, 3), 4, 3))
    mask = (causal() & not_padding([[False, True, True, True], [True] * 4])).tensor(4)[:, 0]
    output, weights = attention(q, k, v, mask, empty_rows="zeros")
    assert (output[0, 0] == 0).all() and (weights[0, 0] == 0).all()
    assert (weights[1, 0, 0] == 1).all()
    output.square().sum().backward()
    for x in (q, k, v):
        assert torch.isfinite(x.grad).all()
    assert (q.grad[0, 0] == 0).all()


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("kernel", [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION])
def test_on_a_cpu_sdpa_answers_an_empty_row_with_zeros(dtype, kernel):
    q, k, v = random_qkv(2, (1, 2, 4, 3), 4, 3, dtype)
    mask = (causal() & sinks(2) & ~sinks(1)).tensor(4)  # row 0 sees nothing
    for form in (mask, to_additive(mask, dtype)):
        with sdpa_kernel(kernel):
            theirs = F.scaled_dot_product_attention(q, k, v, attn_mask=form)
        assert (theirs[:, :, 0] == 0).all()
    ours, _ = attention(q, k, v, mask, empty_rows="zeros")
    assert (ours[:, :, 0] == 0).all()


def test_gradients_are_right_also_beside_an_empty_row():
    q, k, v = (x.requires_grad_() for x in random_qkv(3, (3, 2), 3, 2))
    mask = torch.tensor([[False] * 3, [True, False, True], [True] * 3])
    torch.autograd.gradcheck(
        lambda *x: attention(*x, mask, empty_rows="zeros")[0], (q, k, v), raise_exception=True
    )


def test_an_empty_row_that_nobody_asked_for_is_an_error_that_suspects_the_polarity():
    inverted = ~causal().tensor(3)
    q, k, v = random_qkv(4, (3, 2), 3, 2)
    with pytest.raises(ValueError, match=r"query row 2 .*Is the mask inverted\?.*empty_rows"):
        attention(q, k, v, inverted)


def test_a_trace_of_an_inverted_mask_is_refused_like_any_other():
    with pytest.raises(ValueError, match="query row 4 may attend to no key"):
        trace(Q, K, V, ~causal(), TOKENS)


def test_half_precision_is_computed_in_single_precision_inside():
    # 70,000 equal scores: their sum does not fit into float16, and near 1,000 q k does not either.
    for zeros in (torch.zeros(70_000, dtype=torch.float16), np.zeros(70_000, np.float16)):
        weights = masked_softmax(zeros)
        assert weights.dtype == zeros.dtype
        assert abs(float(weights.astype(float).sum() if isinstance(weights, np.ndarray)
                         else weights.double().sum()) - 1) < 0.01  # fmt: skip
    q = np.full((1, 16), 100.0, np.float16)
    output, _ = attention(q, np.stack([q[0], q[0]]), np.eye(2, dtype=np.float16))
    assert output.dtype == np.float16 and output.tolist() == [[0.5, 0.5]]


def test_the_scale_can_be_given():
    weights = attention(Q, K, V, scale=0.0)[1]
    np.testing.assert_allclose(weights, np.full((5, 5), 0.2))
    q, k, v = (torch.tensor(x)[None] for x in (Q, K, V))
    theirs = F.scaled_dot_product_attention(q, k, v, scale=1.7)
    torch.testing.assert_close(attention(q, k, v, scale=1.7)[0], theirs)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("library", [np.asarray, torch.as_tensor])
def test_nan_and_inf_in_a_visible_score_are_never_hidden(bad, library):
    s = np.array([[1.0, bad, 0.0], [1.0, 2.0, bad]])
    seen = library(np.array([[True, True, False], [True, True, False]]))
    with np.errstate(invalid="ignore"):
        weights = np.asarray(masked_softmax(library(s), seen))
    assert np.isnan(weights[0, :2]).any(), "a visible NaN or inf must show"
    assert np.isfinite(weights[1]).all(), "a blocked one must not"


def test_a_row_whose_visible_scores_are_all_minus_infinity_is_nan_not_zero():
    with np.errstate(invalid="ignore"):
        weights = masked_softmax(np.array([-np.inf, -np.inf, 1.0]), np.array([True, True, False]))
    assert np.isnan(weights[:2]).all()


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_infinite_inputs_show_where_they_are_visible_and_numpy_does_not_warn(name, bad):
    arrays = {"q": Q.copy(), "k": K.copy(), "v": V.copy()}
    arrays[name][3, 0] = bad  # "on"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        t = trace(**arrays, mask=causal(), tokens=TOKENS)
        assert all(t.explain(word) for word in TOKENS)
        output, weights = attention(*arrays.values(), causal())
    np.testing.assert_array_equal(t.output, output)
    np.testing.assert_array_equal(t.weights, weights)
    honest = trace(Q, K, V, causal(), TOKENS)
    np.testing.assert_array_equal(t.weights[:3], honest.weights[:3])  # it lies in their future
    if name != "v":  # 0 * inf is NaN: a blocked value shows, here as in torch
        np.testing.assert_array_equal(t.output[:3], honest.output[:3])
    tensors = (torch.as_tensor(array) for array in arrays.values())
    np.testing.assert_allclose(t.output, attention(*tensors, causal())[0].numpy(), atol=1e-12)
    seen = t.output if name == "v" else t.scaled
    assert not np.isfinite(seen[3]).all(), "a visible infinity must show"


def test_scores_far_apart_or_huge_do_not_overflow():
    weights = masked_softmax(np.array([[1e4, -1e4, 1e4], [-1e300, -1e300, 0.0]]), None)
    np.testing.assert_allclose(weights, [[0.5, 0, 0.5], [0, 0, 1]])


@pytest.mark.parametrize(("n_q", "n_k"), [(0, 0), (0, 3)])
def test_no_queries_give_no_outputs(n_q, n_k):
    for module in (np, torch):
        q, k, v = module.zeros((n_q, 2)), module.zeros((n_k, 2)), module.zeros((n_k, 3))
        output, weights = attention(q, k, v, causal(), q_pos=np.arange(n_q))
        assert tuple(output.shape) == (n_q, 3) and tuple(weights.shape) == (n_q, n_k)


def test_queries_without_any_key_are_empty_rows():
    q, k, v = np.ones((2, 2)), np.ones((0, 2)), np.ones((0, 3))
    with pytest.raises(ValueError, match="may attend to no key"):
        attention(q, k, v)
    output, _ = attention(q, k, v, empty_rows="zeros")
    assert output.shape == (2, 3) and (output == 0).all()


def test_no_input_is_changed():
    for convert in (np.array, torch.tensor):
        q, k, v = convert(Q), convert(K), convert(V)
        mask = convert(causal().matrix(5))
        attention(q, k, v, mask)
        trace(q, k, v, mask, TOKENS)
        for array, original in ((q, Q), (k, K), (v, V), (mask, causal().matrix(5))):
            assert np.array_equal(np.asarray(array), original)


# --- trace ---------------------------------------------------------------------------------------


def test_explain_writes_the_row_of_sat_so_that_it_can_be_checked_by_hand():
    text = trace(Q, K, V, causal(), TOKENS).explain("sat")
    for line in (
        "may attend to: The, cat, sat",
        "blocked:       on, mat",
        "The  1*0 + 1*1 + 1*0 + 0*1 = 1  ->  0.5000",
        "mat  1*1 + 1*0 + 1*0.5 + 0*0.5 = 1.5  ->  blocked, -inf",
        "sum of exp: 1.6487 + 2.7183 + 2.7183 = 7.0853",
        "sat  2.7183 / 7.0853 = 0.3837",
        "output = [0.2327, 0.3837, 0.3837, 0.0000]",
    ):
        assert line in text


def test_explain_survives_huge_scores_and_empty_rows():
    huge = trace(Q * 1e3, K, V, causal(), TOKENS).explain("cat")
    assert "less the largest" in huge and "inf" not in huge.replace("-inf", "")
    tiny = trace(Q * -1e3, K, V, causal(), TOKENS).explain("sat")
    assert "0.0000 / 0.0000" not in tiny
    nothing = trace(Q, K, V, np.zeros((5, 5), bool), TOKENS, empty_rows="zeros").explain("cat")
    assert "nothing is visible" in nothing


def test_trace_takes_any_float_dtype_and_library():
    for q, k, v in (
        (torch.tensor(Q).bfloat16(), torch.tensor(K).bfloat16(), torch.tensor(V).bfloat16()),
        (Q.astype(np.float16), K.astype(np.float16), V.astype(np.float16)),
    ):
        ours = trace(q, k, v, causal().tensor(5), TOKENS)
        assert np.array_equal(ours.weights, trace(Q, K, V, causal(), TOKENS).weights)


def test_labels_may_be_numbers_and_rows_numpy_numbers():
    numbered = trace(Q, K, V, causal(), range(5))
    assert numbered.explain(np.int64(2)) == numbered.explain("2")


# --- bad input -----------------------------------------------------------------------------------

T = torch.tensor


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: attention([[1.0]], K, V), TypeError, "q: expected a floating .*got list"),
        (lambda: attention(Q.astype(int), K, V), TypeError, "q: expected a floating.*int64"),
        (lambda: masked_softmax(np.ones((2, 2), int)), TypeError, "scores: expected a floating"),
        (lambda: attention(Q, T(K), V), TypeError, "k: expected the library and dtype of q"),
        (lambda: attention(Q, K.astype(np.float32), V), TypeError, "k: .*dtype of q.*float32"),
        (lambda: attention(Q[0], K, V), ValueError, r"q: expected shape \[\.\.\., T, d\]"),
        (lambda: attention(Q[:, :3], K, V), ValueError, r"k: .*\[5, 3\] and k \[5, 4\]"),
        (lambda: scores(Q[:, :0], K[:, :0]), ValueError, "at least 1"),
        (lambda: attention(Q, K, V[:4]), ValueError, "v: expected one value a key; got 4 .* 5"),
        (lambda: attention(Q[None].repeat(2, 0), K[None].repeat(3, 0), V), ValueError, "k: .*lead"),
        (lambda: attention(Q[None].repeat(2, 0), K, V[None].repeat(3, 0)), ValueError, "v: .*lead"),
        (lambda: attention(Q, K, V, causal(), q_pos=5), ValueError, "q_pos: .* 5 pos.* number 5"),
        (lambda: attention(Q, K, V, np.ones((5, 5))), TypeError, "mask: expected a boolean"),
        (lambda: attention(Q, K, V, np.ones((4, 4), bool)), ValueError, r"mask: .*\[5, 5\].*\[4"),
        (lambda: attention(Q, K, V, torch.ones(5, 5).bool()), TypeError, "mask: .*library"),
        (lambda: attention(Q, K[:3], V[:3], causal()), ValueError, "q_pos: needed"),
        (lambda: attention(Q, K, V, causal(), q_pos=[1]), ValueError, "q_pos: expected 5"),
        (lambda: attention(Q, K, V, causal(), k_pos=[1] * 5), ValueError, "q_pos: needed beside k"),
        (
            lambda: attention(Q, K, V, causal(), q_pos=range(5), k_pos=[1]),
            ValueError,
            "k_pos: expected 5 positions; got 1",
        ),
        (lambda: attention(Q, K, V, causal), TypeError, r"mask: .*the function causal.*causal\("),
        (lambda: attention(Q, K, V, causal() & (Q > 0)), TypeError, "Mask.from_matrix"),
        (lambda: attention(Q, K, V, prefix_lm(6)), ValueError, "a prefix of 6, longer than .* 5"),
        (lambda: attention(Q, K, V, prefix_lm(6) & ~causal()), ValueError, "a prefix of 6"),
        (lambda: attention(Q, K, V, prefix_lm([2, 6])), ValueError, "a prefix of 6"),
        (lambda: attention(Q, K, V, None, q_pos=[1]), ValueError, "q_pos, k_pos: only a Mask"),
        (lambda: masked_softmax(Q, empty_rows="nan"), ValueError, "empty_rows: .*'nan'"),
        (lambda: trace(Q[None], K, V), ValueError, r"q: expected shape \[T, d\]"),
        (lambda: trace(Q, K, V, tokens=["a"]), ValueError, "tokens: expected 5 labels; got 1"),
        (lambda: trace(Q, K, V, None, TOKENS).explain(True), ValueError, "token: .*True"),
        (lambda: trace(Q, K, V, None, TOKENS).explain("dog"), ValueError, "token: .*'dog'"),
        (lambda: trace(Q, K, V, None, TOKENS).explain(9), ValueError, "token: .*got 9"),
    ],
)
def test_bad_input_names_the_argument_what_was_expected_and_what_came(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
