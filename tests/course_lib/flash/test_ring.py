"""Ring attention: the same numbers as one process, and the same work for every rank."""

import math
import os
import sys
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_lib.attention import attention
from course_lib.flash import ring
from course_lib.flash.processes import launch
from course_lib.flash.ring import merge, pairs_in, positions, ring_attention, visit_for
from course_lib.flash.ring_demo import one_rank
from course_lib.masks import causal

SPLITS = ("zigzag", "contiguous")


def sequence(dtype=np.float64, length=48):
    rng = np.random.default_rng(0)
    return [rng.normal(size=(2, h, length, 8)).astype(dtype) for h in (4, 2, 2, 4)]


def alone(q, k, v, do):
    """Output and gradients of one process, in float64."""
    q, k, v, do = (torch.from_numpy(x).double() for x in (q, k, v, do))
    inputs = [x.requires_grad_() for x in (q, k, v)]
    group = q.shape[1] // k.shape[1]
    keys, values = (x.repeat_interleave(group, 1) for x in (k, v))
    o, _ = attention(q, keys, values, causal())
    return [x.detach().numpy() for x in (o, *torch.autograd.grad(o, inputs, do))]


# --- real processes ------------------------------------------------------------------------------


@pytest.mark.parametrize(("world", "dtype"), [(2, np.float32), (4, np.float64)])
def test_processes_equal_one_process_forward_and_backward(world, dtype):
    inputs = sequence(dtype)
    right = alone(*inputs)
    ranks = launch(one_rank, world, *inputs, SPLITS)
    for parts in zip(*ranks, strict=True):  # all ranks of one split
        owned = np.concatenate([part.positions for part in parts])
        assert sorted(owned) == list(range(48)), "every position has one owner"
        for part in parts:
            for name, whole in zip(("o", "dq", "dk", "dv"), right, strict=True):
                got = getattr(part, name)
                assert got.dtype == dtype
                error = np.abs(got - whole[:, :, part.positions]).max()
                assert error < (
                    1e-12 if dtype == np.float64 else 1e-6 * max(1, np.abs(whole).max())
                )
        pairs = [part.work.pairs for part in parts]
        assert sum(pairs) == 2 * 48 * 49 // 2, "each visible pair once forward, once backward"
        assert (len(set(pairs)) == 1) == (parts[0].split == "zigzag")


def fail_on_rank_one(rank, world):
    if rank == 1:
        raise ValueError("rank one has had enough")
    time.sleep(600)


def vanish(rank, world):
    os._exit(3)


def test_a_rank_that_fails_ends_all_and_says_why():
    with pytest.raises(RuntimeError, match=r"rank 1 failed:(.|\n)*rank one has had enough"):
        launch(fail_on_rank_one, 2)


def one_has_more_rows(rank, world):
    x = torch.zeros(1, 1, 4 + 2 * rank, 8)
    ring_attention(x, x, x)


def test_ranks_that_bring_different_lengths_are_told_so():
    """Without the check gloo ends the process, and nobody says why."""
    with pytest.raises(
        RuntimeError, match=r"ValueError: q: expected the same shape.*on every rank"
    ):
        launch(one_has_more_rows, 2)


def test_a_rank_that_vanishes_is_noticed():
    with pytest.raises(RuntimeError, match="rank 0 failed:\nthe process ended without a word"):
        launch(vanish, 1)


def test_a_function_that_cannot_be_imported_is_refused(monkeypatch):
    def local(rank, world):
        return rank

    local.__module__ = "__main__"
    with pytest.raises(ValueError, match="function: expected one from an importable module"):
        launch(local, 2)
    with pytest.raises(ValueError, match="world: expected at least 1"):
        launch(vanish, 0)


# --- who does what -------------------------------------------------------------------------------


@given(world=st.integers(1, 9), chunk=st.integers(1, 20), split=st.sampled_from(SPLITS))
def test_blocks_cover_the_causal_mask_exactly_once(world, chunk, split):
    length = 2 * world * chunk
    owned = [positions(rank, world, length, split) for rank in range(world)]
    seen = np.zeros((length, length), int)
    for rank in range(world):
        for source in range(world):
            block = visit_for(rank, source, length // world, split)
            if block is None:
                continue
            rows, columns = owned[rank][block.queries], owned[source][block.keys]
            inside = causal().matrix(len(rows)) if block.causal else True
            before = seen[np.ix_(rows, columns)]
            seen[np.ix_(rows, columns)] = before + inside
            assert pairs_in(block) == np.broadcast_to(inside, before.shape).sum()
    assert np.array_equal(seen, causal().matrix(length).astype(int))


@given(world=st.integers(1, 16), chunk=st.integers(1, 64))
def test_zigzag_gives_every_rank_the_same_work_in_every_step(world, chunk):
    n = 2 * chunk
    work = [
        [pairs_in(visit_for(rank, (rank - step) % world, n)) for step in range(world)]
        for rank in range(world)
    ]
    assert all(steps == work[0] for steps in work)


def test_contiguous_parts_are_unfair():
    """Counted in tiles of one part by one part, diagonal ones half: .5, 1.5, 2.5, 3.5."""
    n = 1000
    work = [
        sum(pairs_in(visit_for(rank, source, n, "contiguous")) for source in range(4)) / n**2
        for rank in range(4)
    ]
    assert work == pytest.approx([0.5, 1.5, 2.5, 3.5], abs=1 / n)


# --- the parts -----------------------------------------------------------------------------------


def test_merging_equals_attention_over_both_sets_of_keys():
    rng = np.random.default_rng(1)
    q, k, v = (torch.from_numpy(rng.normal(size=(1, 1, t, 8)) * 30) for t in (5, 20, 20))
    parts = [ring._attend(q, k[:, :, s], v[:, :, s], False, 1.0) for s in (slice(7), slice(7, 20))]
    o, lse = merge(*parts[0], *parts[1])
    whole, whole_lse = ring._attend(q, k, v, False, 1.0)
    torch.testing.assert_close(o, whole, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(lse, whole_lse, rtol=1e-13, atol=1e-13)


def test_merging_with_nothing_changes_nothing():
    o, lse = torch.ones(3, 8), torch.tensor([0.0, 500.0, -math.inf])
    nothing = torch.zeros(3, 8), torch.full((3,), -math.inf)
    for pair in (merge(o, lse, *nothing), merge(*nothing, o, lse)):
        assert torch.equal(pair[0][:2], o[:2]) and torch.equal(pair[1], lse)
        assert (pair[0][2] == 0).all(), "a row that has seen nothing stays zero, not NaN"


@pytest.mark.skipif(sys.platform != "linux", reason="triton is for Linux")
@pytest.mark.parametrize("is_causal", [False, True])
def test_both_local_kernels_agree(is_causal, monkeypatch):
    """The Triton one is what GPU ranks use; without a GPU it runs in the interpreter here."""
    if not torch.cuda.is_available():
        monkeypatch.setenv("TRITON_INTERPRET", "1")  # if this is triton's first import
    rng = np.random.default_rng(2)
    n_keys = 20 if is_causal else 10
    q, do = (torch.from_numpy(rng.normal(size=(1, 4, 20, 16))).float() for _ in range(2))
    k, v = (torch.from_numpy(rng.normal(size=(1, 2, n_keys, 16))).float() for _ in range(2))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    q, k, v, do = (x.to(device) for x in (q, k, v, do))
    o, lse = ring._attend(q, k, v, is_causal, 0.25)
    o2, lse2 = ring._attend_triton(q, k, v, is_causal, 0.25)
    torch.testing.assert_close(o2, o, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(lse2, lse, rtol=1e-5, atol=1e-5)
    lse = lse + 0.5  # as if other ranks had added keys
    delta = (o * do).sum(-1)
    one = ring._differentiate(do, q, k, v, lse, delta, is_causal, 0.25)
    two = ring._differentiate_triton(do, q, k, v, lse, delta, is_causal, 0.25)
    for got, right in zip(two, one, strict=True):
        torch.testing.assert_close(got, right, rtol=1e-5, atol=1e-5)


# --- errors --------------------------------------------------------------------------------------

X = torch.zeros(1, 2, 4, 8)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((X, X, X), {"split": "striped"}, ValueError, "split: expected one of zigzag, contiguous"),
        ((X.long(), X, X), {}, TypeError, "q: expected a floating torch tensor"),
        ((X, X.double(), X), {}, TypeError, "k: expected the dtype of q"),
        ((X[0], X, X), {}, ValueError, "q: expected shape"),
        ((X.half(),) * 3, {}, TypeError, "q: expected float32 or float64 on a CPU"),
        ((X[:, :1], X, X), {}, ValueError, "k: expected"),
        ((X, X, X[:, :1]), {}, ValueError, "v: expected the shape of k"),
        ((X[:, :, :3],) * 3, {}, ValueError, "q: expected an even number of rows for zigzag"),
        ((X, X, X), {}, RuntimeError, "init_process_group first"),
    ],
    ids=str,
)
def test_errors_name_the_argument(arguments, options, error, message):
    with pytest.raises(error, match=message):
        ring_attention(*arguments, **options)


def test_errors_of_positions():
    with pytest.raises(ValueError, match="length: expected a multiple of 8"):
        positions(0, 4, 12)
    with pytest.raises(TypeError, match="length: expected an integer; got float"):
        positions(0, 4, 16.0)
    with pytest.raises(ValueError, match="world: expected at least 3"):
        positions(2, 2, 16)
    with pytest.raises(ValueError, match="split: expected one of"):
        positions(0, 2, 16, "striped")
