"""The tuned kernels: equal to the reference, whatever the mask, the dtype and the shape.

Without a GPU they run in Triton's interpreter, at small sizes, and are compiled for GPUs that are
not here in a process of its own.
"""

import importlib.util
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

if importlib.util.find_spec("triton") is None:
    pytest.skip("needs triton, which is for Linux", allow_module_level=True)

CUDA = torch.cuda.is_available()
if not CUDA:
    os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported for the first time

from course_lib.attention import attention  # noqa: E402
from course_lib.flash import triton_kernels as kernels  # noqa: E402
from course_lib.flash.tile_plan import tile_plan  # noqa: E402
from course_lib.flash.triton_forward import CAUSAL, FULL, TILES  # noqa: E402
from course_lib.flash.triton_kernels import Config, flash_attention, flash_decode  # noqa: E402
from course_lib.flash.triton_steps import step_attention  # noqa: E402
from course_lib.leaks import assert_causal  # noqa: E402
from course_lib.masks import (  # noqa: E402
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
    tree,
)
from course_lib.masks.rule import lookup  # noqa: E402

# The kernels are defined now; notebooks that this process starts shall not inherit it.
INTERPRET = os.environ.pop("TRITON_INTERPRET", None)
DEVICE = "cuda" if CUDA else "cpu"
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
#: The error of one rounding of the output, plus that of rounded weights and values.
TOLERANCE = {torch.float32: 3e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@pytest.fixture(autouse=True)
def poison(monkeypatch):
    """Memory that nobody has written holds NaN: what a kernel leaves out shows."""
    if INTERPRET:
        monkeypatch.setenv("TRITON_INTERPRET", INTERPRET)
    for name in ("empty", "empty_like"):
        original = getattr(torch, name)
        monkeypatch.setattr(torch, name, _poisoned(original))
    monkeypatch.setattr(torch.Tensor, "new_empty", _poisoned(torch.Tensor.new_empty))


def _poisoned(original):
    def empty(*args, **kwargs):
        tensor = original(*args, **kwargs)
        return tensor.fill_(math.nan) if tensor.is_floating_point() else tensor

    return empty


def tensors(rng, batch, heads, kv_heads, n_queries, n_keys, D, dtype=torch.float32, size=1.0):
    shapes = ((heads, n_queries), (kv_heads, n_keys), (kv_heads, n_keys), (heads, n_queries))
    return [
        torch.from_numpy(rng.normal(size=(batch, h, t, D)) * size).to(dtype).to(DEVICE)
        for h, t in shapes
    ]


def reference(q, k, v, mask, do=None, scale=None):
    """Output, and gradients if `do` is given, in float64."""
    q, k, v = (x.detach().double().requires_grad_() for x in (q, k, v))
    group = q.shape[1] // k.shape[1]
    keys, values = (x.repeat_interleave(group, 1) for x in (k, v))
    o, _ = attention(q, keys, values, mask, empty_rows="zeros", scale=scale)
    if do is None:
        return o.detach()
    return (o.detach(), *torch.autograd.grad(o, (q, k, v), do.double()))


def check(q, k, v, do, mask, *, scale=None, **configs):
    """Output and all three gradients against the reference."""
    q, k, v = (x.clone().requires_grad_() for x in (q, k, v))
    o = flash_attention(q, k, v, mask, scale=scale, **configs)
    assert o.dtype == q.dtype and o.shape == q.shape
    gradients = torch.autograd.grad(o, (q, k, v), do)
    wanted = reference(q, k, v, mask, do, scale)
    for name, got, right in zip(("o", "dq", "dk", "dv"), (o, *gradients), wanted, strict=True):
        error = (got.double() - right).abs().max().item()
        bound = TOLERANCE[q.dtype] * max(1.0, right.abs().max().item())
        assert error <= bound, f"{name} is off by {error:.2g}, allowed {bound:.2g}"


IDS = torch.tensor([[0] * 10 + [1] * 27, [0] * 30 + [1] * 7])
VALID = torch.arange(37)[None] < torch.tensor([37, 20])[:, None]
RULES = {
    "causal": causal(),
    "none": None,
    "full": full(),
    "prefix": prefix_lm(19),
    "prefix each": prefix_lm([5, 30]),
    "window": sliding_window(7) | sinks(2),
    "documents": causal() & same_document(IDS),
    "padding": causal() & not_padding(VALID),
    "tree": tree([-1, 0, 0, 1] + [2] * 33),
    "row": causal() | open_rows([2]),
    "upside down": ~causal(),  # the last row sees nothing
    "nothing": ~full(),
}


@pytest.mark.parametrize("name", RULES)
def test_any_rule_equals_the_reference_with_gradients(name):
    rng = np.random.default_rng(1)
    q, k, v, do = tensors(rng, 2, 2, 2, 37, 37, 16)
    check(q, k, v, do, RULES[name])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("D", [32, 64, 128])
def test_dtypes_and_head_dimensions(dtype, D):
    rng = np.random.default_rng(2)
    q, k, v, do = tensors(rng, 1, 2, 1, 18, 18, D, dtype)
    check(q, k, v, do, causal())


@pytest.mark.parametrize("seed", range(6))
def test_random_shapes_rules_and_tiles(seed):
    rng = np.random.default_rng(seed)
    kv_heads, group = (int(n) for n in rng.integers(1, 3, size=2))
    n_keys = int(rng.integers(1, 60))
    n_queries = int(rng.integers(1, n_keys + 1))
    bits = rng.random((n_keys, n_keys)) < 0.3
    mask = [causal(), None, Mask(lambda q, k: lookup(bits, q)[q, k], "random bits")][seed % 3]
    config, turned = (
        Config(*(int(n) for n in rng.choice([16, 32], size=2)), tma=bool(rng.integers(2)),
               dq_atomic=bool(rng.integers(2)))
        for _ in range(2)
    )  # fmt: skip
    q, k, v, do = tensors(rng, 2, kv_heads * group, kv_heads, n_queries, n_keys, 16)
    check(q, k, v, do, mask, scale=0.3, config=config, backward_config=turned)


def test_a_row_that_sees_nothing_gives_zeros_and_zero_gradients():
    rng = np.random.default_rng(3)
    q, k, v, do = tensors(rng, 1, 1, 1, 20, 20, 16)
    dead = torch.arange(20) % 3 == 0
    mask = causal() & Mask(lambda i, j: (i % 3 != 0) & (j >= 0), "not every third row")
    q, k, v = (x.requires_grad_() for x in (q, k, v))
    o = flash_attention(q, k, v, mask)
    dq, dk, dv = torch.autograd.grad(o, (q, k, v), do)
    assert (o[0, 0, dead] == 0).all() and (dq[0, 0, dead] == 0).all()
    assert all(x.isfinite().all() for x in (o, dq, dk, dv))
    check(q, k, v, do, mask)


@pytest.mark.parametrize("size", [1e-4, 1.0, 30.0], ids=["tiny", "usual", "huge"])
@pytest.mark.parametrize("shift", [-1.0, 0.0, 1.0])
def test_scores_of_any_size(size, shift):
    """Huge scores near +-30,000, all of one sign or mixed; a fused kernel must not overflow."""
    rng = np.random.default_rng(4)
    q, k, v, do = tensors(rng, 1, 1, 1, 20, 20, 16)
    q, k = q * size + shift * size * 8, k * size + abs(shift) * size * 8
    o = flash_attention(q, k, v, causal())
    right = reference(q, k, v, causal())
    # A score near s is known to s * 2**-23; its weight to a factor exp of that.
    biggest = (q.double() @ k.double().mT).abs().max().item() / 4
    bound = 3e-6 + 4 * biggest * 2**-23 * v.abs().max().item()
    assert o.isfinite().all() and (o.double() - right).abs().max() <= bound
    q, k, v = (x.requires_grad_() for x in (q, k, v))
    gradients = torch.autograd.grad(flash_attention(q, k, v, ~causal()), (q, k, v), do)
    assert all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("mask", [None, causal(), sliding_window(30)], ids=str)
def test_keys_that_are_not_there_stay_out_of_the_gradients(mask):
    """All scores near -1,000: a key beyond the end, which scores 0, would weigh e^1000."""
    rng = np.random.default_rng(12)
    q, k, v, do = tensors(rng, 1, 1, 1, 20, 20, 16)
    q, k = q.abs() + 15, -k.abs() - 15
    inputs = [x.requires_grad_() for x in (q, k, v)]
    for atomic in (False, True):
        config = Config(16, 32, dq_atomic=atomic)
        o = flash_attention(*inputs, mask, backward_config=config)
        gradients = torch.autograd.grad(o, inputs, do)
        wanted = reference(q, k, v, mask, do)
        for got, right in zip((o, *gradients), wanted, strict=True):
            assert (got.double() - right).abs().max() <= 2e-3 * right.abs().max()


def test_the_gradient_is_the_slope():
    """Central differences of a random projection of the output, in float32."""
    rng = np.random.default_rng(5)
    q, k, v, do = tensors(rng, 1, 2, 1, 6, 9, 16)
    inputs = [x.requires_grad_() for x in (q, k, v)]
    gradients = torch.autograd.grad(flash_attention(*inputs), inputs, do)
    for i, gradient in enumerate(gradients):
        step = torch.from_numpy(rng.normal(size=inputs[i].shape)).float().to(DEVICE)
        ahead, behind = ([*inputs] for _ in range(2))
        ahead[i], behind[i] = inputs[i] + 0.01 * step, inputs[i] - 0.01 * step
        change = flash_attention(*ahead).double() - flash_attention(*behind).double()
        slope = ((change * do).sum() / 0.02).item()
        assert slope == pytest.approx((gradient * step).sum().item(), rel=2e-3, abs=2e-3)


def test_future_tokens_never_change_the_past():
    rng = np.random.default_rng(6)
    weights = torch.from_numpy(rng.normal(size=(3, 16, 16))).float().to(DEVICE)

    def layer(x, mask=RULES["causal"]):
        q, k, v = (x[None, None] @ w for w in weights)
        return flash_attention(q, k, v, mask)[0, 0]

    x = torch.from_numpy(rng.normal(size=(20, 16))).float().to(DEVICE)
    assert_causal(layer, x, trials=1)
    with pytest.raises(AssertionError, match="output 0 changes when input"):
        assert_causal(lambda x: layer(x, open_rows([0]) | causal()), x, trials=1)


def test_any_strides_give_the_same_bits():
    rng = np.random.default_rng(7)
    q, k, v, _ = tensors(rng, 2, 2, 2, 20, 20, 16)
    right = flash_attention(q, k, v)
    rows_first = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    columns_first = [x.mT.contiguous().mT for x in (q, k, v)]
    shared = [x[:1].expand(2, -1, -1, -1) for x in (q, k, v)]
    assert torch.equal(flash_attention(*rows_first), right)
    assert torch.equal(flash_attention(*columns_first), right)
    for config in (Config(16, 16), Config(16, 16, tma=True)):
        assert torch.equal(flash_attention(*shared, config=config)[1], right[0])


@pytest.mark.parametrize("shape", [(0, 2, 5, 16), (1, 2, 0, 16)], ids=str)
def test_no_sequences_and_no_queries_give_zero_gradients(shape):
    q = torch.zeros(shape, device=DEVICE, requires_grad=True)
    keys = torch.ones(shape[0], 2, 5, 16, device=DEVICE, requires_grad=True)
    o = flash_attention(q, keys, keys)
    assert o.shape == shape and (torch.autograd.grad(o.sum(), keys)[0] == 0).all()


def test_memory_beyond_the_end_is_never_read():
    """The tensors are the first rows of longer ones that hold NaN."""
    rng = np.random.default_rng(14)
    q, k, v, do = tensors(rng, 1, 1, 1, 20, 20, 16)
    for tma in (False, True):
        config = Config(16, 16, tma=tma)
        inputs = []
        for x in (q, k, v):
            longer = torch.full((1, 1, 40, 16), math.nan, device=DEVICE)
            longer[:, :, :20] = x
            inputs.append(longer[:, :, :20].requires_grad_())
        for mask in (causal(), None, sliding_window(5)):
            o = flash_attention(*inputs, mask, config=config, backward_config=config)
            assert (o.double() - reference(q, k, v, mask)).abs().max() <= TOLERANCE[q.dtype]
            assert all(g.isfinite().all() for g in torch.autograd.grad(o, inputs, do))


def test_inputs_are_left_alone_and_two_runs_agree():
    rng = np.random.default_rng(8)
    q, k, v, _ = tensors(rng, 1, 1, 1, 20, 20, 16)
    before = [x.clone() for x in (q, k, v)]
    assert torch.equal(flash_attention(q, k, v), flash_attention(q, k, v))
    assert all(torch.equal(a, b) for a, b in zip((q, k, v), before, strict=True))


# --- the plan of tiles ---------------------------------------------------------------------------


def test_a_rule_that_only_calls_itself_causal_is_not_taken_for_it():
    liar = Mask(lambda q, k: k <= q + 1, "causal()")
    assert kernels.mode_of(liar) == TILES and kernels.mode_of(causal()) == CAUSAL
    assert kernels.mode_of(None) == kernels.mode_of(full()) == FULL
    assert kernels.mode_of(causal() & causal()) == TILES
    rng = np.random.default_rng(9)
    q, k, v, do = tensors(rng, 1, 1, 1, 20, 20, 16)
    check(q, k, v, do, liar)


@pytest.mark.parametrize("rule", [causal(), sliding_window(40), RULES["documents"]], ids=str)
def test_the_plan_lists_every_tile_that_is_not_empty_once(rule):
    n_keys = 37 if rule.length else 150
    plan = tile_plan(rule, n_keys - 5, n_keys, block_q=16, block_k=32)
    q_pos = np.arange(5, n_keys)
    kinds = rule.tiles(q_pos, n_keys, block_q=16, block_k=32).reshape(plan.batch, -1)
    assert plan.visited == (kinds != Tile.EMPTY).sum() and plan.tiles == kinds.size
    for side in (plan.by_query, plan.by_key):
        assert side.full_starts[-1] + side.partial_starts[-1] == plan.visited


def test_equal_partial_tiles_are_stored_once():
    """However long the sequence, a causal rule has one kind of diagonal tile."""
    assert len(tile_plan(causal(), 256, 256, block_q=16, block_k=16).patterns) == 1
    assert len(tile_plan(sliding_window(33), 256, 256, block_q=16, block_k=16).patterns) == 2


def test_a_plan_is_made_once_for_a_mask_and_a_shape():
    rule = sliding_window(5)
    again = [tile_plan(rule, 40, 40, block_q=16, block_k=16) for _ in range(2)]
    assert again[0] is again[1]
    assert tile_plan(rule, 41, 41, block_q=16, block_k=16) is not again[0]
    with pytest.raises(ValueError, match="n_queries: expected at most n_keys = 3; got 4"):
        tile_plan(rule, 4, 3, block_q=16, block_k=16)


def test_a_tile_size_that_does_not_fit_is_passed_over():
    small, large, errors = Config(16, 16), Config(32, 32), []

    def run(config):
        if config == large:
            raise kernels.triton.runtime.errors.OutOfResources(300_000, 200_000, "shared memory")
        errors.append(config)

    assert kernels._first_that_fits([large, small], run) == small and errors == [small]
    with pytest.raises(RuntimeError, match=r"no tile size works on this device.*shared memory"):
        kernels._first_that_fits([large], run)

    def broken(config):
        raise RuntimeError("an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        kernels._first_that_fits([small], broken)


# --- decoding ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_queries", "n_keys", "heads", "kv_heads", "splits", "dtype"),
    [
        (1, 100, 4, 2, None, torch.float32),
        (3, 70, 2, 2, 4, torch.float32),
        (1, 33, 8, 1, 99, torch.float16),
        (2, 5, 2, 1, 1, torch.bfloat16),
    ],
)
def test_decoding_equals_the_last_rows_of_the_reference(
    n_queries, n_keys, heads, kv_heads, splits, dtype
):
    rng = np.random.default_rng(10)
    q, k, v, _ = tensors(rng, 2, heads, kv_heads, n_queries, n_keys, 32, dtype)
    got = flash_decode(q, k, v, splits=splits)
    assert got.dtype == dtype
    assert (got.double() - reference(q, k, v, causal())).abs().max() <= TOLERANCE[dtype]


def test_slots_that_are_not_filled_are_never_read():
    rng = np.random.default_rng(11)
    q, k, v, _ = tensors(rng, 3, 2, 1, 2, 64, 16)
    lengths = [64, 33, 2]
    for b, n in enumerate(lengths):
        k[b, :, n:], v[b, :, n:] = math.nan, math.nan
    got = flash_decode(q, k, v, lengths=torch.tensor(lengths, device=DEVICE), splits=3)
    for b, n in enumerate(lengths):
        one = reference(q[b : b + 1], k[b : b + 1, :, :n], v[b : b + 1, :, :n], causal())
        assert (got[b].double() - one[0]).abs().max() <= TOLERANCE[torch.float32]


def test_decoding_says_that_it_has_no_gradient():
    x = torch.zeros(1, 1, 4, 16, device=DEVICE)
    with pytest.raises(ValueError, match="q: expected inputs that need no gradient"):
        flash_decode(x.requires_grad_(), x, x)
    with torch.no_grad():
        flash_decode(x, x, x)


# --- the steps from the teaching kernel ----------------------------------------------------------


@pytest.mark.parametrize(("exp2", "split"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize(("n_queries", "n_keys"), [(40, 40), (5, 37)])
def test_each_step_computes_the_same(exp2, split, n_queries, n_keys):
    rng = np.random.default_rng(13)
    q, k, v, _ = tensors(rng, 1, 2, 2, n_queries, n_keys, 16)
    got = step_attention(q, k, v, exp2=exp2, split=split, config=Config(16, 16))
    assert (got.double() - reference(q, k, v, causal())).abs().max() <= TOLERANCE[q.dtype]


# --- errors --------------------------------------------------------------------------------------

X = torch.zeros(1, 2, 4, 16, device=DEVICE)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((X.numpy() if not CUDA else 1, X, X), {}, TypeError, "q: expected a torch tensor"),
        ((X.double(),) * 3, {}, TypeError, "q: expected float16, bfloat16 or float32"),
        ((X, X.half(), X), {}, TypeError, "k: expected the dtype of q"),
        ((X[0], X, X), {}, ValueError, r"q: expected shape \[B, heads, T, D\]"),
        ((X[..., :8],) * 3, {}, ValueError, "q: expected a head dimension of 16"),
        ((X, X[:, :, :, :0], X), {}, ValueError, "k: expected shape"),
        ((X, X, X[:, :1]), {}, ValueError, "v: expected the shape of k"),
        ((X[:, :1], X, X), {}, ValueError, "k: expected a number of heads that divides 1; got 2"),
        ((X, X[:, :, :3], X[:, :, :3]), {}, ValueError, "q: expected at most as many queries"),
        ((X, X, X, X > 0), {}, TypeError, "mask: expected a course_lib.masks.Mask"),
        ((X, X, X, prefix_lm(9)), {}, ValueError, "mask: expected at least 9 keys"),
        ((X, X, X, prefix_lm([1, 2])), {}, ValueError, "mask: expected data of 1 sequences"),
        ((X, X, X), {"scale": -1.0}, ValueError, "scale: expected a finite number above 0"),
        ((X, X.to("meta"), X), {}, ValueError, "k: expected device"),
        ((X, X, X), {"config": (16, 16)}, TypeError, "config: expected a Config or None; got tu"),
        ((X, X, X), {"backward_config": 1}, TypeError, "backward_config: expected a Config"),
    ],
    ids=str,
)
def test_errors_name_the_argument(arguments, options, error, message):
    with pytest.raises(error, match=message):
        flash_attention(*arguments, **options)


def test_errors_of_decoding():
    many = torch.zeros(1, 2, 129, 16, device=DEVICE)
    with pytest.raises(ValueError, match="q: expected at most 128 rows"):
        flash_decode(many, many, many)
    for options, message in (
        ({"splits": 0}, "splits: expected at least 1; got 0"),
        ({"block_k": 24}, "block_k: expected a power of two of at least 16; got 24"),
    ):
        with pytest.raises(ValueError, match=message):
            flash_decode(X, X, X, **options)
    for sides in ((24, 16), (16, 8)):
        with pytest.raises(ValueError, match=r"block_[qk]: expected"):
            Config(*sides)
    with pytest.raises(TypeError, match="lengths: expected an int32 or int64 tensor"):
        flash_decode(X, X, X, lengths=[4])
    with pytest.raises(ValueError, match="lengths: expected shape"):
        flash_decode(X, X, X, lengths=torch.tensor([4, 4], device=DEVICE))
    if not CUDA:
        with pytest.raises(ValueError, match="lengths: expected from 4"):
            flash_decode(X, X, X, lengths=torch.tensor([5]))


# --- for GPUs that are not here ------------------------------------------------------------------

COMPILE = """
import json, sys
from course_lib.flash.compiled import compile_for
from course_lib.flash.triton_kernels import Config, candidates
found = {}
for capability, dtype in ((75, "fp16"), (80, "bf16"), (90, "bf16")):
    kind = {"fp16": "float16", "bf16": "bfloat16"}[dtype]
    import torch
    pair = (capability // 10, capability % 10)
    forward = candidates("forward", pair, 64, getattr(torch, kind))[0]
    backward = candidates("backward", pair, 64, getattr(torch, kind))[0]
    turned = Config(backward.block_k, backward.block_q, backward.warps, backward.stages,
                    backward.tma)
    kernels = {"forward": forward, "keys": backward, "queries": turned,
               "decode": Config(16, 64, 4, 3)}
    if capability == 80:
        found["steps 80"] = vars(compile_for("steps", 80, dtype, 64, Config(64, 64, 4, 2)))
    if capability < 90:  # the others are slow to compile, and say little more
        kernels = {"forward": forward}
    for which, config in kernels.items():
        found[f"{which} {capability}"] = vars(compile_for(which, capability, dtype, 64, config))
large = candidates("forward", (9, 0), 128, torch.bfloat16)[0]
found["forward 90 d128"] = vars(compile_for("forward", 90, "bf16", 128, large))
print(json.dumps(found))
"""
SHARED = {75: 64 * 1024, 80: 163 * 1024, 90: 227 * 1024}


def test_the_kernels_compile_for_gpus_that_are_not_here(tmp_path):
    """Types, layouts and shared memory, which the interpreter does not check; no time is."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    environment.pop("TRITON_INTERPRET", None)
    result = subprocess.run(
        [sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout.splitlines()[-1])
    for name, report in found.items():
        capability = int(name.split()[1])
        assert report["shared"] <= SHARED[capability], name
        if capability == 90 and "decode" not in name:
            assert report["wgmma"] and report["tma"] and not report["mma"], name
            assert report["stack"] == 0, f"{name} spills"
        if capability == 80:
            assert report["mma"], name
