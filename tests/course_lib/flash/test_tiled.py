"""Tiled attention computes what attention computes, for any rule, length and head sharing."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import course_lib.flash as flash
from course_lib.attention import attention
from course_lib.costs import (
    attention_bytes,
    attention_flops,
    causal_tile_share,
    matrix_bytes,
    roofline,
)
from course_lib.flash import (
    KernelStatus,
    available_kernels,
    sdpa_kernel_used,
    tiled_attention_numpy,
    tiled_attention_torch,
)
from course_lib.flash.available import _failure
from course_lib.flash.tiled import _Task
from course_lib.leaks import assert_causal
from course_lib.masks import (
    Mask,
    Tile,
    causal,
    full,
    not_padding,
    open_rows,
    prefix_lm,
    same_document,
    sinks,
    sliding_window,
)

RULES = {
    "full": full(),
    "none": None,
    "causal": causal(),
    "prefix": prefix_lm(3),
    "window": sliding_window(3),
    "streaming": causal() & (sliding_window(4) | sinks(2)),
    "documents": causal() & same_document(np.arange(40) // 5),
    "nothing": ~full(),
    "not the past": ~causal(),
}


def draw(shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def both(q, k, v, mask, **options):
    """The outputs of the NumPy and of the torch version."""
    tensors = [torch.from_numpy(x) for x in (q, k, v)]
    return (
        tiled_attention_numpy(q, k, v, mask, **options),
        tiled_attention_torch(*tensors, mask, **options).numpy(),
    )


def expected(q, k, v, mask):
    return attention(q, k, v, mask, empty_rows="zeros")[0]


# --- right --------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(list(RULES)),
    n_queries=st.integers(1, 20),
    before=st.integers(0, 15),
    block=st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_any_rule_length_and_tile_give_what_attention_gives(name, n_queries, before, block, seed):
    mask, n_keys = RULES[name], max(n_queries + before, 3)
    q, k = draw((2, n_queries, 4), seed), draw((2, n_keys, 4), seed + 1)
    v = draw((2, n_keys, 3), seed + 2)
    for output in both(q, k, v, mask, block=block):
        np.testing.assert_allclose(output, expected(q, k, v, mask), rtol=1e-12, atol=1e-12)


def test_several_products_a_row_when_the_keys_do_not_fit_one(monkeypatch):
    monkeypatch.setattr("course_lib.flash.tiled._WIDTH", 16)
    monkeypatch.setattr("course_lib.flash.tiled._SPAN", 24)
    q, k, v = (draw((1, 2, 70, 8), seed) for seed in range(3))
    k *= 20  # large scores, so that the maximum really moves from product to product
    for name in ("causal", "none", "streaming"):
        for output in both(q, k, v, RULES[name], block=8):
            wanted = expected(q, k, v, RULES[name])
            np.testing.assert_allclose(output, wanted, rtol=1e-12, atol=1e-12)


def test_heads_share_key_heads_in_groups():
    q, k, v = draw((2, 6, 9, 4)), draw((2, 2, 9, 4), 1), draw((2, 2, 9, 4), 2)
    wanted = expected(q, k.repeat(3, axis=1), v.repeat(3, axis=1), causal())
    for output in both(q, k, v, causal(), block=4):
        np.testing.assert_allclose(output, wanted, rtol=1e-12)


def test_rules_with_data_of_each_sequence():
    valid = np.array([[False] * 5 + [True] * 5, [True] * 10])  # a tile empty in one of them
    mask = causal() & not_padding(valid)
    q, k, v = (draw((2, 3, 10, 4), seed) for seed in range(3))
    wanted = expected(q, k, v, mask)
    assert (wanted[0, :, :5] == 0).all() and (wanted[1] != 0).any()
    for output in both(q, k, v, mask, block=4):
        np.testing.assert_allclose(output, wanted, rtol=1e-12, atol=1e-15)


def test_positions_may_be_given():
    q, k, v = (draw((2, 8, 4), seed) for seed in range(3))
    some = [1, 5, 6]
    for output in both(q[:, some], k, v, causal(), q_pos=some, block=2):
        np.testing.assert_allclose(output, expected(q, k, v, causal())[:, some], rtol=1e-12)


@pytest.mark.parametrize("size", [1e-30, 1e4, 1e15])
def test_tiny_and_huge_scores(size):
    q, k, v = (draw((1, 1, 33, 4), seed, np.float32) for seed in range(3))
    q *= np.float32(size)
    for output in both(q, k, v, causal(), block=8):
        assert np.isfinite(output).all()
        wanted = expected(q, k, v, causal())
        np.testing.assert_allclose(output, wanted, atol=2e-3 if size == 1e4 else 1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    q, k, v = (torch.from_numpy(draw((1, 2, 40, 8), seed)).to(dtype) for seed in range(3))
    output = tiled_attention_torch(q, k, v, block=16)
    exact = attention(q.double(), k.double(), v.double(), causal())[0]
    assert output.dtype == dtype
    rounding = torch.finfo(dtype).eps * exact.abs().clamp(min=0.1)
    assert ((output.double() - exact).abs() <= rounding).all()


@pytest.mark.parametrize(
    "row",
    [[200, 200, 0, 0], [-np.inf, -np.inf, 1, 1], [-np.inf, -np.inf, -200, -200], [0, 0, 200, 200]],
    ids=["falls", "blocked first", "blocked, then low", "rises"],
)
def test_the_running_maximum_is_neither_forgotten_nor_made_up(row, monkeypatch):
    """As in tilelang#1148, FlagAttention#25 and flash-attention#2082.

    Query 0 sees every key, so that no tile is empty; query 1 sees what is finite in `row`.
    """
    monkeypatch.setattr("course_lib.flash.tiled._WIDTH", 2)
    visible = np.isfinite(row)
    mask = not_padding(visible) | open_rows([0])
    k = np.where(visible, row, 0.0).astype(np.float32)[:, None]
    q, v = np.ones((2, 1), np.float32), np.eye(4, dtype=np.float32)
    wanted = attention(q, k, v, mask, q_pos=[0, 1], scale=1.0)[0]
    for output in both(q, k, v, mask, block=2, scale=1.0, q_pos=[0, 1]):
        np.testing.assert_allclose(output, wanted, rtol=1e-6)


def test_nothing_of_a_blocked_key_arrives_not_even_nan():
    q, k, v = (draw((1, 1, 12, 4), seed) for seed in range(3))
    wanted = expected(q, k, v, causal())
    k[..., 9:, :] = np.nan
    for output in both(q, k, v, causal(), block=5):
        np.testing.assert_allclose(output[..., :9, :], wanted[..., :9, :], rtol=1e-12)
        assert np.isnan(output[..., 9:, :]).all(), "and a visible NaN stays visible"


def test_the_logarithm_of_the_sum_comes_back(monkeypatch):
    monkeypatch.setattr("course_lib.flash.tiled._WIDTH", 4)  # several products a row
    q, k, v = (draw((2, 11, 4), seed) for seed in range(3))
    mask = causal() & sliding_window(3)
    s = np.where(mask.matrix(11), q @ k.swapaxes(-1, -2) / 2, -np.inf)
    wanted = np.log(np.exp(s).sum(-1))
    _, ours = tiled_attention_numpy(q, k, v, mask, block=4, return_lse=True)
    _, theirs = tiled_attention_torch(
        *(torch.from_numpy(x) for x in (q, k, v)), mask, block=4, return_lse=True
    )
    np.testing.assert_allclose(ours, wanted, rtol=1e-12)
    np.testing.assert_allclose(theirs, wanted, rtol=1e-12)
    _, empty = tiled_attention_numpy(q, k, v, ~full(), return_lse=True)
    assert (empty == -np.inf).all()


def test_inputs_are_left_as_they_were():
    arrays = [draw((2, 9, 4), seed) for seed in range(3)]
    before = [x.copy() for x in arrays]
    both(*arrays, causal(), block=4)
    for old, new in zip(before, arrays, strict=True):
        np.testing.assert_array_equal(old, new)


def test_no_keys_and_no_queries():
    empty, some = np.zeros((2, 0, 4)), draw((2, 3, 4))
    for output in both(some, empty, empty, None):
        np.testing.assert_array_equal(output, np.zeros((2, 3, 4)))
    for output in both(empty, some, some, causal()):
        assert output.shape == (2, 0, 4)
    nobody = np.zeros((0, 2, 3, 4))
    for output in both(nobody, nobody, nobody, causal()):
        assert output.shape == (0, 2, 3, 4)


# --- gradients and leaks ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["causal", "streaming", "none", "not the past"])
def test_gradients_agree_with_finite_differences(name, monkeypatch):
    monkeypatch.setattr("course_lib.flash.tiled._WIDTH", 3)  # several products a row
    q, k, v = (torch.from_numpy(draw((1, 2, 7, 3), seed)).requires_grad_() for seed in range(3))
    assert torch.autograd.gradcheck(
        lambda *x: tiled_attention_torch(*x, RULES[name], block=3), (q, k, v)
    )


def test_gradients_of_shared_heads_add_up():
    q = torch.from_numpy(draw((1, 4, 6, 3))).requires_grad_()
    k, v = (torch.from_numpy(draw((1, 2, 6, 3), seed)).requires_grad_() for seed in (1, 2))
    assert torch.autograd.gradcheck(lambda *x: tiled_attention_torch(*x, block=4), (q, k, v))


def test_gradients_of_rows_that_see_nothing_are_zero():
    q, k, v = (torch.from_numpy(draw((1, 1, 6, 4), seed)).requires_grad_() for seed in range(3))
    mask = causal() & not_padding([False, False, True, True, True, True])
    tiled_attention_torch(q, k, v, mask, block=4).sum().backward()
    assert (q.grad[0, 0, :2] == 0).all() and (k.grad[0, 0, :2] == 0).all()
    assert all(torch.isfinite(x.grad).all() for x in (q, k, v))


def test_future_tokens_never_change_the_past():
    assert_causal(lambda x: tiled_attention_numpy(x, x, x, block=4), draw((13, 4)))
    x = torch.from_numpy(draw((13, 4)))
    assert_causal(lambda x: tiled_attention_torch(x, x, x, block=4), x, by="gradient")


# --- work and memory ----------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [1, 2, 5, 16])
def test_a_causal_walk_visits_n_plus_1_over_2n_of_the_tiles(blocks):
    x = np.zeros((1, 1, 4 * blocks, 2))
    task = _Task(x, x, x, causal(), 4, None, None, np.ndarray)
    visited = sum(
        -(-(s.stop - s.start) // 4) for _, _, steps in task.rows_of_tiles() for s in steps
    )
    assert visited / blocks**2 == causal_tile_share(blocks)
    kinds = causal().tiles(4 * blocks, block_q=4, block_k=4)
    assert np.sum(kinds == Tile.PARTIAL) == blocks, "one on the diagonal of each row"


def test_full_tiles_are_computed_without_asking_the_rule():
    x = np.zeros((1, 1, 24, 2))
    task = _Task(x, x, x, causal(), 8, None, None, np.ndarray)
    masked = [len(step.blocked) for _, _, steps in task.rows_of_tiles() for step in steps]
    assert masked == [1, 1, 1]


def test_the_causal_rule_and_rules_that_never_look_ahead_are_asked_less():
    """What is known about a rule must agree with what the rule answers."""
    x = np.zeros((1, 1, 90, 2))
    for known in (causal(), sliding_window(20), causal() & sinks(3)):
        plain = Mask(lambda q, k, rule=known: rule._rule(0, q, k), "the same, unknown")
        for q_pos in (range(90), range(5, 95), [70, 3, 41] * 30):
            kinds = [
                [_Task(x, x, x, m, 16, None, list(q_pos), np.ndarray)._kinds(np.array(rows))
                 for rows in (q_pos[:16], q_pos[80:90])]
                for m in (known, plain)
            ]  # fmt: skip
            for fast, slow in zip(*kinds, strict=True):
                np.testing.assert_array_equal(fast, slow)


def test_products_stay_within_the_width():
    x = np.zeros((1, 1, 9000, 2), np.float32)
    task = _Task(x, x, x, causal(), 256, None, None, np.ndarray)
    assert max(s.stop - s.start for _, _, steps in task.rows_of_tiles() for s in steps) <= 2048


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"q": np.zeros((2, 3), int)}, TypeError, "q: expected a floating"),
        ({"k": np.zeros((5, 4), np.float32)}, TypeError, "k: expected"),
        ({"k": np.zeros((5, 3))}, ValueError, "k: expected vectors"),
        ({"v": np.zeros((4, 4))}, ValueError, "v: expected one value a key"),
        ({"q": np.zeros((1, 5, 4))}, ValueError, "k: expected .* axes of q"),
        ({"mask": np.ones((5, 5), bool)}, TypeError, "mask: expected a Mask"),
        ({"mask": prefix_lm(9)}, ValueError, "longer than the 5 keys"),
        ({"mask": prefix_lm([1, 2])}, ValueError, "data of 2 sequences"),
        ({"q": np.zeros((7, 4))}, ValueError, "q_pos: needed"),
        ({"q_pos": [1, 2]}, ValueError, "q_pos: expected 5"),
        ({"q_pos": [0.5] * 5}, ValueError, "q_pos: expected 5 integer"),
        ({"block": 0}, ValueError, "block: expected at least 1"),
        ({"block": 2.0}, TypeError, "block: expected an integer"),
        ({"scale": float("nan")}, ValueError, "scale: expected a finite number; got nan"),
    ],
)
def test_bad_input_names_the_argument(change, error, words):
    x = np.zeros((5, 4))
    given = {"q": x, "k": x, "v": x, "mask": causal(), **change}
    with pytest.raises(error, match=words):
        tiled_attention_numpy(**given)
    tensors = {n: torch.from_numpy(a) if n in ("q", "k", "v") else a for n, a in given.items()}
    with pytest.raises(error, match=words):
        tiled_attention_torch(**tensors)


def test_heads_that_cannot_be_shared_are_refused():
    q, k = np.zeros((1, 4, 3, 2)), np.zeros((1, 3, 3, 2))
    with pytest.raises(ValueError, match="divides the 4 of q; got 3"):
        tiled_attention_numpy(q, k, k)
    with pytest.raises(ValueError, match="k: expected the batch of q"):
        tiled_attention_numpy(q, np.zeros((1, 2, 3, 2)), k)


# --- backends -----------------------------------------------------------------------------------


def test_a_kernel_that_fails_without_a_word_is_reported_all_the_same():
    def fails():
        raise AssertionError

    assert _failure(fails) == "AssertionError" and _failure(lambda: None) is None


def test_backends_say_what_runs_on_a_cpu_and_why_the_rest_does_not():
    found = {b.name: b for b in available_kernels("cpu")}
    assert list(found)[:4] == ["MATH", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION"]
    assert found["MATH"].runs and found["FlexAttention"].runs
    assert not found["CUDNN_ATTENTION"].runs and "cpu" in found["CUDNN_ATTENTION"].why
    assert all("\n" not in b.why and len(str(b)) < 100 for b in found.values())
    assert str(KernelStatus("A", True, "b")).split() == ["A", "runs", "b"]


def test_triton_in_its_interpreter_counts_as_running(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert "interpreter" in {b.name: b for b in available_kernels("cpu")}["Triton"].why
    monkeypatch.delenv("TRITON_INTERPRET")
    assert not {b.name: b for b in available_kernels("cpu")}["Triton"].runs


def test_the_kernel_that_a_call_takes_is_named():
    x = torch.randn(1, 2, 16, 8)
    assert sdpa_kernel_used(x, x, x, is_causal=True) == "FLASH_ATTENTION (CPU)"
    assert sdpa_kernel_used(x, x, x[..., :4], is_causal=True) == "MATH"
    with torch.nn.attention.sdpa_kernel([torch.nn.attention.SDPBackend.MATH]):
        assert sdpa_kernel_used(x, x, x) == "MATH"


def test_the_package_works_without_triton():
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import numpy as np, course_lib.flash as flash\n"
        "x = np.ones((3, 4)); assert (flash.tiled_attention_numpy(x, x, x) == 1).all()\n"
        "try: flash.flash_attention\n"
        "except ImportError: print('no kernels')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "no kernels\n", done.stderr


def test_unknown_names_are_no_attributes():
    with pytest.raises(AttributeError, match="nonsense"):
        flash.nonsense  # noqa: B018
    assert "flash_attention" in flash.__all__


# --- costs --------------------------------------------------------------------------------------


def test_bytes_by_hand():
    assert attention_bytes(3, 2, bytes_per_value=1) == 4 * 3 * 2
    assert attention_bytes(3, 2, bytes_per_value=1, tiled=False) == 4 * 3 * 2 + 4 * 9
    assert attention_bytes(5, 2, heads=3, batch=2) == 2 * 3 * 2 * 4 * 5 * 2
    assert matrix_bytes(1024, heads=8) == 8 * 1024 * 1024 * 4
    assert attention_flops(4, 2) == 4 * 16 * 2


def test_the_roof_has_a_ridge():
    assert roofline(1, 100, 10) == 10
    assert roofline(10, 100, 10) == 100 == roofline(1000, 100, 10)
    assert roofline(0, 100, 10) == 0
    for bad in ((-1, 1, 1), (1, 0, 1), (1, 1, float("nan"))):
        with pytest.raises(ValueError, match="expected"):
            roofline(*bad)


def test_the_share_of_tiles_tends_to_one_half():
    assert [causal_tile_share(n) for n in (1, 2, 4)] == [1, 0.75, 0.625]
    with pytest.raises(ValueError, match="blocks"):
        causal_tile_share(0)
