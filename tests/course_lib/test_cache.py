"""Claims about the three caches: what they hold, where it belongs, and what they refuse."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.attention import attention
from course_lib.cache import Cache, ConcatCache, RingCache, StaticCache
from course_lib.masks import Mask, causal, sinks, sliding_window

pytestmark = pytest.mark.fast

KINDS = {
    "concat": ConcatCache,
    "static": lambda: StaticCache(16),
    "ring": lambda: RingCache(5),
    "ring with spare slots": lambda: RingCache(3, spare=2),
}


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def contents(cache: Cache) -> tuple:
    """Everything that one can see of a cache."""
    held = () if cache._k is None else tuple(x.clone() for x in cache.view())
    return cache.length, cache.room, cache.nbytes, cache.positions.tolist(), held


def same(a: tuple, b: tuple) -> bool:
    return a[:4] == b[:4] and all(torch.equal(x, y) for x, y in zip(a[4], b[4], strict=True))


def split(length: int, cuts: list[int]) -> list[slice]:
    """0..length cut at some places."""
    ends = sorted({c % length for c in cuts} | {0, length})
    return [slice(a, b) for a, b in pairwise(ends)]


leads = st.sampled_from([(), (3,), (2, 3), (1, 2, 2)])
cuts = st.lists(st.integers(0, 100), max_size=12)
dtypes = st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16])


@settings(deadline=None)
@given(st.sampled_from(list(KINDS)), leads, st.integers(1, 16), cuts, dtypes, st.integers(0, 99))
def test_a_cache_holds_what_went_in_at_the_positions_it_says(kind, lead, n, at, dtype, seed):
    k, v = random(*lead, n, 4, seed=seed, dtype=dtype), random(*lead, n, 2, seed=seed + 1)
    v = v.to(dtype)
    cache = KINDS[kind]()
    for part in split(n, at):
        returned = cache.append(k[..., part, :], v[..., part, :], range(part.start, part.stop))
        for held in (returned, (*cache.view(), cache.positions)):
            assert torch.equal(held[0], k[..., held[2], :])
            assert torch.equal(held[1], v[..., held[2], :])
    assert cache.length == n
    least = n if not isinstance(cache, RingCache) else min(n, cache.window)
    assert set(range(n - least, n)) <= set(cache.positions.tolist()) <= set(range(n))


@settings(deadline=None)
@given(
    st.sampled_from(["concat", "static", "ring"]),
    leads,
    st.integers(1, 16),  # length
    st.integers(1, 16),  # window
    cuts,
    dtypes,
    st.integers(0, 99),
)
def test_attention_with_a_cache_is_attention_to_everything(kind, lead, n, width, at, dtype, seed):
    """Random splits, lengths, leading axes, windows and dtypes; the mask comes from positions."""
    rule = sliding_window(width) if kind == "ring" else causal()
    q, k, v = (random(*lead, n, 4, seed=seed + i, dtype=dtype) for i in range(3))
    whole, _ = attention(q, k, v, rule)
    cache = {"concat": ConcatCache, "static": lambda: StaticCache(n)}.get(
        kind, lambda: RingCache(width)
    )()
    for part in split(n, at):
        held = cache.append(k[..., part, :], v[..., part, :])
        mask = rule.tensor(torch.arange(part.start, part.stop), held.positions)
        output, _ = attention(q[..., part, :], held.k, held.v, mask)
        tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, 2e-2)
        torch.testing.assert_close(output, whole[..., part, :], atol=tolerance, rtol=tolerance)


def test_a_mask_made_by_counting_from_zero_is_wrong_for_a_ring():
    """Why caches say positions: the memory of a ring is not in the order of the text."""
    q, k, v = (random(7, 4, seed=i) for i in range(3))
    rule, cache = sliding_window(2), RingCache(3)
    for t in range(7):
        cache.append(k[t : t + 1], v[t : t + 1])
    assert cache.positions.tolist() == [6, 4, 5]
    by_position = rule.tensor(torch.tensor([6]), cache.positions)
    by_counting = rule.tensor([2], 3)
    assert by_position.tolist() == [[True, False, True]]
    assert by_counting.tolist() == [[False, True, True]]
    whole = attention(q, k, v, rule)[0][-1:]
    torch.testing.assert_close(attention(q[6:], *cache.view(), by_position)[0], whole)
    assert not torch.allclose(attention(q[6:], *cache.view(), by_counting)[0], whole)


@settings(deadline=None)
@given(st.sampled_from(list(KINDS)), st.integers(1, 16), cuts, st.integers(0, 100), cuts)
def test_after_a_crop_a_cache_goes_on_as_if_nothing_had_happened(kind, n, at, back, again):
    k, v, other = random(n, 4), random(n, 4, seed=1), random(n, 4, seed=2)
    cache = KINDS[kind]()
    for part in split(n, at):  # a draft, right at first and wrong from `keep` on
        cache.append(k[part], v[part])
    keep = n - 1 - back % n
    if isinstance(cache, RingCache) and n - keep > cache.spare + 1 and n > cache.window:
        before = contents(cache)
        try:
            cache.crop(keep)
        except ValueError as error:
            assert "have been overwritten" in str(error)
            assert same(contents(cache), before)
            return
    else:
        cache.crop(keep)
    assert cache.length == keep
    k = torch.cat([k[:keep], other[keep:]])
    v = torch.cat([v[:keep], 2 * other[keep:]])
    for part in split(n - keep, again):
        part = slice(keep + part.start, keep + part.stop)
        held = cache.append(k[part], v[part])
        assert torch.equal(held.k, k[held.positions]) and torch.equal(held.v, v[held.positions])
        window = getattr(cache, "window", n)
        needed = range(max(0, part.start - window + 1), part.stop)
        assert set(needed) <= set(held.positions.tolist())


@pytest.mark.parametrize("spare", [0, 1, 3])
def test_a_ring_can_always_take_back_its_spare_slots_and_one_more(spare):
    cache = RingCache(4, spare=spare)
    cache.append(random(20, 2), random(20, 2))
    with pytest.raises(ValueError, match=f"expected at least {19 - spare}, because positions"):
        cache.crop(18 - spare)
    cache.crop(19 - spare)
    assert set(range(16 - spare, 19 - spare)) <= set(cache.positions.tolist())


def test_caches_are_in_the_same_state_if_they_hold_the_same_positions_in_the_same_order() -> None:
    def of(cache: Cache, n: int = 3) -> Cache:
        cache.append(random(n, 4), random(n, 4))
        return cache

    for make in (ConcatCache, lambda: StaticCache(8), lambda: RingCache(8)):
        assert make().same_state(make()) and of(make()).same_state(of(make()))
        assert not of(make()).same_state(of(make(), 4))
    assert not of(StaticCache(8)).same_state(of(ConcatCache()))
    assert not of(RingCache(8)).same_state(of(RingCache(7, spare=1)))
    behind = of(RingCache(3), 6)
    behind.crop(5)
    assert not behind.same_state(of(RingCache(3), 5))  # one position more is lost


@pytest.mark.parametrize("kind", KINDS)
def test_positions_after_says_what_append_will_return(kind):
    cache = KINDS[kind]()
    for n in (1, 2, 1, 1, 4, 1, 1, 3, 1, 1):
        promised, following = cache.positions_after(n), cache.next_positions(n)
        assert following.tolist() == list(range(cache.length, cache.length + n))
        entries = cache.append(random(n, 2), random(n, 2))
        assert torch.equal(entries.positions, promised) and entries.k.shape[-2] == len(promised)
        assert torch.equal(promised[-n:], following)


# --- write, then commit --------------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.sampled_from(list(KINDS)),
    st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=8),
    st.integers(0, 99),
)
def test_what_was_written_and_not_committed_was_never_there(kind, chunks, seed):
    """A pass that failed, at any place, leaves the cache bit for bit as it was."""
    cache, twin = KINDS[kind](), KINDS[kind]()
    for i, (n, succeeds) in enumerate(chunks):
        if cache.room is not None and n > cache.room:
            return
        k, v = random(2, n, 4, seed=seed + i), random(2, n, 3, seed=seed - i)
        before = contents(cache) if cache.length else None
        keys, values = cache.write(k, v)
        positions = cache.positions_after(n)
        if before is not None:  # a concat cache takes more memory meanwhile
            assert same((*before[:2], cache.nbytes, *before[3:]), contents(cache))
        if succeeds:
            entries = twin.append(k, v)
            assert torch.equal(keys, entries.k) and torch.equal(values, entries.v)
            assert torch.equal(positions, entries.positions)
            cache.commit(n)
            assert same(contents(cache), contents(twin))


@pytest.mark.parametrize("kind", KINDS)
def test_entries_of_the_last_axis_lie_side_by_side(kind):
    """Fused kernels take keys and values as they are."""
    cache = KINDS[kind]()
    for n in (2, 1, 3, 1):
        entries = cache.append(*random(2, 3, n, 2, 4).transpose(2, 3))  # as a model splits heads
        assert {x.stride(-1) for x in (*entries[:2], *cache.view())} == {1}


# --- memory ------------------------------------------------------------------------------------


def test_static_and_ring_never_move_and_a_static_cache_hands_out_views():
    for cache in (StaticCache(9), RingCache(1)):
        places = set()
        for _ in range(9):
            entries = cache.append(random(2, 1, 4), random(2, 1, 4))
            handed_out = cache.view() if isinstance(cache, RingCache) else entries[:2]
            places.add(tuple(x.untyped_storage().data_ptr() for x in handed_out))
        assert len(places) == 1


def test_a_ring_stays_as_large_as_its_window_and_a_concat_cache_grows():
    ring, concat = RingCache(3), ConcatCache()
    sizes = []
    for _ in range(6):
        for cache in (ring, concat):
            cache.append(random(1, 4), random(1, 4))
        sizes.append((ring.nbytes, concat.nbytes))
    assert sizes == [(3 * 64, (t + 1) * 64) for t in range(6)]


def test_an_empty_cache_may_start_again_with_another_batch():
    for make in KINDS.values():
        cache = make()
        cache.append(random(2, 7, 4), random(2, 7, 4))
        cache.crop(0)
        assert cache.positions.tolist() == [] and cache.positions_after(2).tolist() == [0, 1]
        cache.append(random(3, 1, 8, dtype=torch.float32), random(3, 1, 8, dtype=torch.float32))
        assert cache.view()[0].shape == (3, 1, 8) and cache.positions.tolist() == [0]


def test_gradients_pass_through_a_concat_cache():
    k = random(4, 3).requires_grad_()
    cache = ConcatCache()
    for t in range(4):
        held = cache.append(k[t : t + 1], k[t : t + 1])
    held.k.sum().backward()
    assert (k.grad == 1).all()


# --- what is refused ---------------------------------------------------------------------------

GOOD = random(2, 3, 1, 4)
meta = torch.zeros(2, 3, 1, 4, device="meta", dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("filled", [2, 7])
@pytest.mark.parametrize(
    ("k", "v", "positions", "error", "message"),
    [
        (GOOD.float(), GOOD.float(), None, TypeError, "k: expected the dtype held, torch.float64"),
        (GOOD, GOOD.float(), None, TypeError, "v: expected the dtype of k, torch.float64; got"),
        (GOOD.long(), GOOD, None, TypeError, "k: expected a floating tensor; got torch.int64"),
        (GOOD.numpy(), GOOD, None, TypeError, "k: expected a floating tensor; got ndarray"),
        (meta, meta, None, ValueError, "k: expected the device held, cpu; got meta"),
        (GOOD, meta, None, ValueError, "v: expected the device of k, cpu; got meta"),
        (GOOD[:1], GOOD[:1], None, ValueError, r"expected shape \[2, 3, 'T', 4\] as held"),
        (GOOD[:, :1], GOOD[:, :1], None, ValueError, r"got \[2, 1, 1, 4\]"),
        (GOOD[..., :2], GOOD, None, ValueError, r"k: expected shape .* got \[2, 3, 1, 2\]"),
        (GOOD, GOOD[..., :2], None, ValueError, r"v: expected shape .* got \[2, 3, 1, 2\]"),
        (GOOD, GOOD[:, :1], None, ValueError, "v: expected one value a key"),
        (GOOD[:, :, :0], GOOD[:, :, :0], None, ValueError, r"T > 0; got \[2, 3, 0, 4\]"),
        (GOOD[0, 0, 0], GOOD[0, 0, 0], None, ValueError, r"k: expected shape \[..., T, D\]"),
        (GOOD, GOOD, [0], ValueError, r"positions: expected \d..\d, which follow .* got \[0\]"),
        (GOOD, GOOD, [2, 3], ValueError, r"positions: expected .* got \[2, 3\]"),
    ],
)
def test_bad_input_is_refused_and_changes_nothing(kind, filled, k, v, positions, error, message):
    cache = KINDS[kind]()
    cache.append(random(2, 3, filled, 4), random(2, 3, filled, 4))
    before = contents(cache)
    with pytest.raises(error, match=message):
        cache.append(k, v, positions)
    assert same(contents(cache), before)


def test_overflow_is_refused_with_the_numbers_and_changes_nothing():
    cache = StaticCache(8)
    cache.append(random(5, 4), random(5, 4))
    before = contents(cache)
    with pytest.raises(ValueError, match=r"at most 3 more positions \(capacity 8, 5 held\); got 4"):
        cache.append(random(4, 4), random(4, 4))
    assert same(contents(cache), before) and cache.room == 3
    cache.append(random(3, 4), random(3, 4))
    assert cache.room == 0


def test_gradient_history_is_refused_by_caches_that_overwrite():
    k = random(1, 4).requires_grad_()
    for cache in (StaticCache(3), RingCache(3)):
        with pytest.raises(ValueError, match="no gradient history"):
            cache.append(k, k)
        with torch.no_grad():
            cache.append(k, k)
        assert cache.length == 1


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: StaticCache(0), ValueError, "capacity: expected at least 1; got 0"),
        (lambda: StaticCache(2.0), TypeError, "capacity: expected an integer"),
        (lambda: RingCache(0), ValueError, "window: expected at least 1; got 0"),
        (lambda: RingCache(2, spare=-1), ValueError, "spare: expected at least 0; got -1"),
        (lambda: ConcatCache().view(), ValueError, "expected something in it"),
        (lambda: StaticCache(2).crop(1), ValueError, r"length: expected at most 0 \(held\); got 1"),
        (lambda: RingCache(2).crop(-1), ValueError, "length: expected at least 0; got -1"),
        (lambda: ConcatCache().crop(True), TypeError, "length: expected an integer"),
    ],
)
def test_bad_sizes_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("kind", KINDS)
def test_a_length_to_crop_to_is_an_integer_of_any_library(kind):
    cache = KINDS[kind]()
    cache.append(random(9, 4), random(9, 4))
    before = contents(cache)
    for length in (8.0, "8", True):
        with pytest.raises(TypeError, match="length: expected an integer; got"):
            cache.crop(length)
        assert same(contents(cache), before)
    cache.crop(np.int64(9))
    assert type(cache.length) is int and same(contents(cache), before)


def test_a_cache_keeps_its_own_copy():
    for cache in (ConcatCache(), StaticCache(4), RingCache(2)):
        k, v = random(2, 4), random(2, 4)
        kept = k.clone()
        cache.append(k, v)
        k.zero_()
        assert torch.equal(cache.view()[0], kept)


@pytest.mark.parametrize("positions", [[0.5], 0, [[0]]])
def test_positions_that_are_no_list_of_integers_are_refused(positions):
    with pytest.raises(TypeError, match="positions: expected integers"):
        ConcatCache().append(random(1, 2), random(1, 2), positions)


def test_a_cache_can_be_copied():
    cache = RingCache(3)
    cache.append(random(4, 2), random(4, 2))
    twin, before = copy.deepcopy(cache), contents(cache)
    twin.append(random(1, 2), random(1, 2))
    assert same(contents(cache), before) and twin.length == 5


def test_a_rule_that_keeps_sinks_can_be_asked_about_any_held_positions():
    """Positions, not rows of a triangle: the mask of a ring under an unusual rule."""
    rule: Mask = causal() & (sliding_window(2) | sinks(5))
    cache = RingCache(3)
    for _ in range(5):
        held = cache.append(random(1, 2), random(1, 2))
    expected = [bool(rule.matrix([4], [int(p)])[0, 0]) for p in held.positions]
    assert rule.tensor(torch.tensor([4]), held.positions)[0].tolist() == expected
