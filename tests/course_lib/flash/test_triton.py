"""The tuned kernels: equal to the reference, whatever the mask, the dtype and the shape."""

import math
import mmap

import numpy as np
import pytest
import torch

from tests.helpers.triton import CUDA, DEVICE, TOLERANCE, poison, reference, tensors  # noqa: F401

# isort: split
from course_lib.flash import triton_attention, triton_passes, triton_tuning
from course_lib.flash.tile_plan import tile_plan
from course_lib.flash.triton_attention import flash_attention, flash_decode
from course_lib.flash.triton_forward import CAUSAL, FULL, TILES
from course_lib.flash.triton_tuning import BackwardConfig, Config
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
    tree,
)
from course_lib.masks.rule import lookup

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


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
    config, keys, queries = (
        Config(*(int(n) for n in rng.choice([16, 32], size=2)), tma=bool(rng.integers(2)))
        for _ in range(3)
    )
    backward = BackwardConfig(keys, queries if rng.integers(2) else None)
    q, k, v, do = tensors(rng, 2, kv_heads * group, kv_heads, n_queries, n_keys, 16)
    check(q, k, v, do, mask, scale=0.3, config=config, backward_config=backward)


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
    for queries in (Config(32, 16), None):
        config = BackwardConfig(Config(16, 32), queries)
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


def test_a_gradient_that_is_one_number_seen_many_times():
    """`sum().backward()` hands down a tensor all of whose strides are 0."""
    rng = np.random.default_rng(19)
    q, k, v, do = tensors(rng, 1, 2, 2, 20, 20, 16)
    check(q, k, v, torch.ones_like(do)[:1, :1, :1, :1].expand(do.shape), causal())


@pytest.mark.parametrize(
    ("heads", "length", "strides"),
    [(3, 20, (2**32, 2**30, 16, 1)), (1, 40, (2**32, 2**32, 2**26, 1))],
    ids=["heads far apart", "rows far apart"],
)
def test_offsets_beyond_two_to_the_31(heads, length, strides):
    """Each stride fits 32 bits, and the places do not; only the pages in use exist."""
    rng = np.random.default_rng(20)
    q, k, v, do = tensors(rng, 1, heads, heads, length, length, 16, torch.float16)
    room = mmap.mmap(-1, 5 * 2**30 + 2**20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    numbers = torch.frombuffer(room, dtype=torch.float16)
    far = [numbers[1024 * i :].as_strided(q.shape, strides) for i in range(3)]
    for view, x in zip(far, (q, k, v), strict=True):
        view.copy_(x)
    check(*far, do, causal())
    last = q[:, :, -1:]
    assert torch.equal(flash_decode(last, *far[1:]), flash_decode(last, k, v))


@pytest.mark.parametrize(("heads", "kv_heads"), [(6, 1), (8, 2), (4, 4)])
@pytest.mark.parametrize("mask", [causal(), sliding_window(9)], ids=str)
def test_heads_of_a_group_dealt_out_to_several_programs(heads, kv_heads, mask):
    rng = np.random.default_rng(21)
    q, k, v, do = tensors(rng, 1, heads, kv_heads, 20, 20, 16)
    for queries in (Config(32, 16), None):
        check(q, k, v, do, mask, backward_config=BackwardConfig(Config(16, 32), queries))


def test_as_many_parts_of_a_group_as_fill_the_gpu():
    """32 programs on 132 processors leave three of four idle."""
    for programs in (1, 32, 100, 264, 1000):
        for group in (1, 6, 8, 32):
            parts = triton_passes.parts_that_fill(programs, group, 132)
            assert group % parts == 0
            assert programs * parts >= 264 or parts == group
            fewer = [n for n in range(1, parts) if group % n == 0]
            assert all(programs * n < 264 for n in fewer)


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
            backward = BackwardConfig(config, config)
            o = flash_attention(*inputs, mask, config=config, backward_config=backward)
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
    assert triton_tuning.mode_of(liar) == TILES and triton_tuning.mode_of(causal()) == CAUSAL
    assert triton_tuning.mode_of(Mask(lambda q, k: k <= q, "full()")) == TILES
    assert triton_tuning.mode_of(None) == triton_tuning.mode_of(full()) == FULL
    assert triton_tuning.mode_of(causal() & full()) == CAUSAL
    assert triton_tuning.mode_of(causal() & sliding_window(3)) == TILES
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
            raise triton_tuning.errors.OutOfResources(300_000, 200_000, "shared memory")
        errors.append(config)

    assert triton_tuning.first_that_fits([large, small], run) == small and errors == [small]
    with pytest.raises(RuntimeError, match=r"no tile size works on this device.*shared memory"):
        triton_tuning.first_that_fits([large], run)

    def broken(config):
        raise RuntimeError("an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        triton_tuning.first_that_fits([small], broken)


def test_what_is_tried_on_a_gpu_depends_on_it():
    half, fp32 = torch.float16, torch.float32
    for which in ("forward", "backward"):
        on = {n: triton_tuning.candidates(which, (n, 0), 128, half) for n in range(8, 13)}
        # sm_100 and sm_120 came later; a sm_120 has no more fast memory than a sm_89.
        assert on[10] == on[12] == on[9] + on[8]
        assert max(len(on[8]), len(on[9])) <= 4, "each is compiled, which takes seconds"
        assert triton_tuning.candidates(which, (9, 0), 128, half, tma=False) == on[8]
        for D in triton_attention.HEAD_DIMS:
            assert triton_tuning.candidates(which, (8, 6), D, fp32)
    assert all(config.tma for config in triton_tuning.candidates("forward", (9, 0), 64, half))
    assert not any(config.tma for config in triton_tuning.candidates("forward", (8, 0), 64, half))


@pytest.fixture
def as_on_a_gpu(monkeypatch, tmp_path):
    """Kinds of calls are timed as on an H200; the list of them that were."""
    timed = []

    def times(which, tried, run):
        timed.append(which)
        return {config: 2.0 + n for n, config in enumerate(tried)} | {tried[-1]: 1.0}

    monkeypatch.setattr(triton_tuning, "_times", times)
    monkeypatch.setattr(triton_tuning, "capability_of", lambda _: (9, 0))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for name in ("CHOSEN", "TRIED"):
        monkeypatch.setattr(triton_tuning, name, {})
    return timed


def test_a_kind_of_call_is_timed_once_and_the_times_are_kept_on_disk(as_on_a_gpu):
    used = []

    def call(heads=8, kv_heads=8, n_keys=2048, mask=None):
        q, k = (torch.empty(2, h, n_keys, 128, dtype=torch.float16, device="meta")
                for h in (heads, kv_heads))  # fmt: skip
        triton_tuning.choose("forward", used.append, q, k, mask, True)
        return len(as_on_a_gpu)

    assert call() == 1 and call(n_keys=1500) == 1  # lengths count by their power of two
    assert used[0] == triton_tuning.candidates("forward", (9, 0), 128, torch.float16)[-1]
    assert call(heads=32) == 2  # more programs, and groups of 4
    assert call(heads=32, kv_heads=32) == 3
    assert call(mask=causal()) == 4
    assert call(n_keys=64) == call(n_keys=70) == 4 and used[-1] != used[0]  # too short to try
    triton_tuning.CHOSEN.clear()
    triton_tuning.TRIED.clear()
    assert call() == 4 and used[-1] == used[0] and len(triton_tuning.TRIED) == 1


def test_the_time_to_launch_is_not_measured(monkeypatch):
    """Python queues all launches while the GPU sleeps, so only the kernels lie between events."""
    happened, config = [], Config(16, 16)

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            happened.append("event")

        def synchronize(self):
            happened.append("wait")

        def elapsed_time(self, end):
            return 6.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: happened.append("sleep"))
    times = triton_tuning._times(
        "forward", [config], lambda _: happened.append("run"), repeats=2, launches=3
    )
    one = ["sleep", "event", "run", "run", "run", "event", "wait"]
    assert happened == ["run", *one, *one] and times == {config: 2.0}


def test_no_order_of_sums_that_changes_where_the_same_bits_are_wanted():
    def atomics():
        tried = triton_tuning.candidates("backward", (9, 0), 128, torch.float16)
        return [config for config in tried if config.queries is None]

    assert atomics()
    torch.use_deterministic_algorithms(True)
    try:
        assert not atomics()
    finally:
        torch.use_deterministic_algorithms(False)


def test_kernels_start_on_the_gpu_that_holds_the_tensors(monkeypatch):
    assert triton_passes.on_device(torch.device("cuda", 1)).idx == 1
    inside, launched = [], []

    class Guard:
        def __enter__(self):
            inside.append(True)

        def __exit__(self, *_):
            inside.pop()

    class Watched:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            assert len(grid) == 1, "the other axes of a grid end at 65,535"
            launched.append(bool(inside))
            return self.kernel[grid]

    monkeypatch.setattr(triton_passes, "on_device", lambda _: Guard())
    for name in [name for name in vars(triton_passes) if name.endswith("_kernel")]:
        monkeypatch.setattr(triton_passes, name, Watched(getattr(triton_passes, name)))
    rng = np.random.default_rng(18)
    q, k, v, do = tensors(rng, 1, 1, 1, 16, 16, 16)
    flash_decode(q[:, :, -1:], k, v)
    inputs = [x.requires_grad_() for x in (q, k, v)]
    torch.autograd.grad(flash_attention(*inputs), inputs, do)
    assert len(launched) >= 6 and all(launched)


def test_the_fastest_that_works_is_chosen():
    slow, fast, large = Config(16, 16), Config(32, 16), Config(32, 32)
    assert triton_tuning._fastest({slow: 2.0, large: "out of shared memory", fast: 1.0}) == fast
    with pytest.raises(RuntimeError, match=r"no tile size works .*\(out of shared memory\)"):
        triton_tuning._fastest({large: "out of shared memory"})


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


@pytest.mark.parametrize("lines", [1, 8, 32, 100, 396, 397, 512, 2000])
@pytest.mark.parametrize("blocks", [1, 7, 512, 2048])
def test_the_splits_of_a_cache_fill_the_gpu(lines, blocks):
    """By counting: no other number of splits is more than 5% faster, and each has keys."""
    at_once = 396  # of an H200, three for each of 132 processors
    splits = triton_tuning.splits_that_fill(lines, blocks, at_once)
    assert 1 <= splits <= blocks

    def waves_times_tiles(splits):
        tiles = math.ceil(blocks / splits)
        return math.ceil(lines * math.ceil(blocks / tiles) / at_once) * tiles

    best = min(map(waves_times_tiles, range(1, min(blocks, max(1, 4 * at_once // lines)) + 1)))
    assert waves_times_tiles(splits) <= 1.05 * best
    if 8 <= lines <= 100 and blocks >= 512:
        assert waves_times_tiles(splits) * at_once <= 1.2 * lines * blocks


def test_a_length_beyond_the_cache_reads_nothing_beyond_it(monkeypatch):
    """On a GPU nobody looks at the lengths before the kernel does."""
    monkeypatch.setattr(triton_attention, "_check_lengths", lambda *_: None)
    rng = np.random.default_rng(16)
    q, k, v, _ = tensors(rng, 2, 2, 1, 3, 20, 16)
    longer = [torch.full((2, 1, 64, 16), math.nan, device=DEVICE) for _ in range(2)]
    for x, long in zip((k, v), longer, strict=True):
        long[:, :, :20] = x
    lengths = torch.tensor([64, 2], device=DEVICE)  # more than there are, and fewer than queries
    got = flash_decode(q, *(x[:, :, :20] for x in longer), lengths=lengths).double()
    assert (got[0] - reference(q, k, v, causal())[0]).abs().max() <= TOLERANCE[q.dtype]
    short = reference(q[1:, :, 1:], k[1:, :, :2], v[1:, :, :2], causal())
    assert (got[1, :, 0] == 0).all()
    assert (got[1:, :, 1:] - short).abs().max() <= TOLERANCE[q.dtype]


def test_decoding_takes_a_smaller_tile_where_fast_memory_is_small(monkeypatch):
    """The preferred tile of bfloat16 and D = 64 may not fit; what comes after it is tried."""
    rng = np.random.default_rng(17)
    q, k, v, _ = tensors(rng, 1, 4, 2, 1, 40, 16)
    fits, tried, run = Config(16, 32, 4, 1), [], triton_passes._run_decode
    with monkeypatch.context() as on_a_gpu:
        on_a_gpu.setattr(triton_tuning, "INTERPRETED", False)
        options = triton_tuning.decode_candidates(16, 64)
    assert [(c.block_k, c.stages) for c in options[:3]] == [(128, 3), (128, 2), (128, 1)]
    assert options[-1] == Config(16, 16, 4, 1) and fits in options
    chosen_by = {None: options, 128: options[:3]}
    monkeypatch.setattr(
        triton_tuning, "decode_candidates", lambda rows, D, block_k, **_: chosen_by[block_k]
    )

    def small(*arguments):
        tried.append(arguments[-1])
        if arguments[-1].block_k > 32:
            raise triton_tuning.errors.OutOfResources(140_000, 65_536, "shared memory")
        run(*arguments)

    monkeypatch.setattr(triton_tuning, "CHOSEN", {})
    monkeypatch.setattr(triton_passes, "_run_decode", small)
    right = reference(q, k, v, causal())
    for _ in range(2):
        got = flash_decode(q, k, v)
        assert (got.double() - right).abs().max() <= TOLERANCE[q.dtype]
    assert tried[-1] == tried[-2] == fits and tried.count(fits) == 2  # remembered
    with pytest.raises(RuntimeError, match="no tile size works on this device"):
        flash_decode(q, k, v, block_k=128)


def test_decoding_without_tensor_cores_takes_tiles_that_registers_hold(monkeypatch):
    """128 rows x 64 keys by 4 warps made the compiler put 32 KB a thread into slow memory."""
    half, fp32 = torch.float16, torch.float32
    sizes = [(rows, D) for rows in (16, 32, 64, 128) for D in triton_attention.HEAD_DIMS]
    with monkeypatch.context() as on_a_gpu:
        on_a_gpu.setattr(triton_tuning, "INTERPRETED", False)
        lists = [triton_tuning.decode_candidates(*size, tensor_cores=False) for size in sizes]
    for (rows, D), (first, *others) in zip(sizes, lists, strict=True):
        assert first.warps == 8 and 16 <= first.block_k <= 64
        assert first.block_k == 16 or rows * D * first.block_k <= 2**16
        assert all(other.block_k <= first.block_k for other in others)
    assert triton_tuning.decode_candidates(16, 64, 128, tensor_cores=False)[0].block_k == 128
    seen = []
    monkeypatch.setattr(triton_tuning, "CHOSEN", {})
    monkeypatch.setattr(triton_passes, "_run_decode", lambda *arguments: seen.append(arguments[-1]))
    for dtype in (half, fp32):
        q, k = (torch.zeros(1, 1, t, 64, dtype=dtype, device=DEVICE) for t in (1, 40))
        flash_decode(q, k, k)
    if not CUDA:
        assert [config.warps for config in seen] == [4, 8]


def test_more_pieces_than_are_merged_at_a_time():
    rng = np.random.default_rng(15)
    q, k, v, _ = tensors(rng, 1, 1, 1, 1, 33 * 16, 16)
    right = reference(q, k, v, causal())
    for splits in (17, 33):
        got = flash_decode(q, k, v, splits=splits, block_k=16)
        assert (got.double() - right).abs().max() <= TOLERANCE[q.dtype]


def test_decoding_says_that_it_has_no_gradient():
    x = torch.zeros(1, 1, 4, 16, device=DEVICE)
    with pytest.raises(ValueError, match="q: expected inputs that need no gradient"):
        flash_decode(x.requires_grad_(), x, x)
    with torch.no_grad():
        flash_decode(x, x, x)


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
        ((X, X, X), {"scale": "0.1"}, TypeError, "scale: expected a number; got str"),
        ((X, X.to("meta"), X), {}, ValueError, "k: expected device"),
        ((X, X, X), {"config": (16, 16)}, TypeError, "config: expected a Config or None; got tu"),
        (
            (X, X, X),
            {"backward_config": 1},
            TypeError,
            "backward_config: expected a BackwardConfig",
        ),
    ],
    ids=str,
)
def test_errors_name_the_argument(arguments, options, error, message):
    with pytest.raises(error, match=message):
        flash_attention(*arguments, **options)


def test_a_gpu_that_triton_does_not_support(monkeypatch):
    monkeypatch.setattr(triton_attention, "INTERPRETED", False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    with pytest.raises(ValueError, match=r"8\.0 or more.*got 7\.5.*scaled_dot_product_attention"):
        triton_attention._check_device(torch.device("cuda"))
    with pytest.raises(ValueError, match="q: expected a CUDA tensor; got one on cpu"):
        triton_attention._check_device(torch.device("cpu"))


def test_errors_of_decoding():
    many = torch.zeros(1, 2, 129, 16, device=DEVICE)
    with pytest.raises(ValueError, match="q: expected at most 128 rows"):
        flash_decode(many, many, many)
    for options, message in (
        ({"splits": 0}, "splits: expected at least 1; got 0"),
        ({"block_k": 24}, "block_k: expected a power of two from 16 to 128; got 24"),
    ):
        with pytest.raises(ValueError, match=message):
            flash_decode(X, X, X, **options)
    for sides in ((24, 16), (16, 8), (256, 16), (16, 256)):
        with pytest.raises(ValueError, match=r"block_[qk]: expected"):
            Config(*sides)
    with pytest.raises(ValueError, match="warps: expected a power of two of at most 32; got 3"):
        Config(16, 16, 3)
    none = X[:0]
    no_lengths = torch.zeros(0, dtype=torch.int64, device=DEVICE)
    assert flash_decode(none, none, none, lengths=no_lengths).shape == none.shape
    with pytest.raises(TypeError, match="lengths: expected an int32 or int64 tensor"):
        flash_decode(X, X, X, lengths=[4])
    with pytest.raises(ValueError, match="lengths: expected shape"):
        flash_decode(X, X, X, lengths=torch.tensor([4, 4], device=DEVICE))
    if not CUDA:
        with pytest.raises(ValueError, match="lengths: expected from 4"):
            flash_decode(X, X, X, lengths=torch.tensor([5]))
