"""Every form of a mask says the same, and agrees with torch's own."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.bias import causal_lower_right, causal_upper_left
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from course_lib.masks import (
    Mask,
    Tile,
    causal,
    from_additive,
    from_key_padding,
    from_multihead_attention,
    from_sdpa,
    full,
    not_padding,
    open_rows,
    prefix_lm,
    same_document,
    sinks,
    sliding_window,
    to_additive,
    to_key_padding,
    to_multihead_attention,
    to_sdpa,
    tree,
)

pytestmark = pytest.mark.fast

sizes = st.integers(0, 9)
LENGTH = 12  # positions that the data of the random rules covers


@st.composite
def rules(draw, batch=None):
    """A random rule, possibly composed, possibly with per-sequence data of `batch` sequences."""

    def data(elements):
        row = st.lists(elements, min_size=LENGTH, max_size=LENGTH)
        return np.array(
            draw(row if batch is None else st.lists(row, min_size=batch, max_size=batch))
        )

    def leaf():
        kind = draw(st.integers(0, 6))
        if kind == 0:
            return causal()
        if kind == 1:
            return prefix_lm(draw(st.integers(0, LENGTH)))
        if kind == 2:
            return sliding_window(draw(st.integers(1, LENGTH)))
        if kind == 3:
            return sinks(draw(st.integers(0, LENGTH)))
        if kind == 4:
            return same_document(data(st.integers(0, 2)))
        if kind == 5:
            return not_padding(data(st.booleans()))
        return open_rows(draw(st.lists(st.integers(0, LENGTH), max_size=3)))

    mask = leaf()
    for _ in range(draw(st.integers(0, 2))):
        other = leaf()
        mask = mask & other if draw(st.booleans()) else mask | other
    return ~mask if draw(st.booleans()) else mask


def ragged_positions(batch, n):
    """Positions for each sequence, [B, n], -1 where it has no token."""
    row = st.lists(st.integers(-1, LENGTH - 1), min_size=n, max_size=n)
    return st.lists(row, min_size=batch, max_size=batch)


# --- the rules, against other people's implementations -------------------------------------------


@given(sizes, sizes)
def test_causal_is_torch_tril_and_the_upper_left_bias(n_q, n_k):
    ours = causal().tensor(n_q, n_k)
    assert torch.equal(ours, torch.ones(n_q, n_k, dtype=torch.bool).tril())
    if n_q and n_k:
        assert torch.equal(ours, causal_upper_left(n_q, n_k)._materialize().bool())


@given(st.integers(1, 9), st.integers(1, 9))
def test_queries_at_the_end_of_the_keys_are_the_lower_right_bias(n_q, n_k):
    if n_q > n_k:
        n_q, n_k = n_k, n_q
    ours = causal().tensor(torch.arange(n_k - n_q, n_k), n_k)
    assert torch.equal(ours, causal_lower_right(n_q, n_k)._materialize().bool())


@given(rules(), st.integers(1, 9), st.integers(1, LENGTH))
def test_sdpa_attends_to_exactly_the_visible_keys(mask, n_q, n_k):
    matrix = mask.tensor(min(n_q, LENGTH), n_k)
    # Values are the unit vectors, so the output of a query is its row of weights.
    q = torch.zeros(1, matrix.shape[0], 2, dtype=torch.float64)
    k = torch.zeros(1, n_k, 2, dtype=torch.float64)
    v = torch.eye(n_k, dtype=torch.float64)[None]
    output = F.scaled_dot_product_attention(q, k, v, attn_mask=to_sdpa(matrix))[0]
    assert torch.equal(output > 0, matrix)


@given(rules(), st.integers(1, 6), st.integers(1, LENGTH))
def test_multihead_attention_reads_the_converted_mask_the_same_way(mask, n_q, n_k):
    matrix = mask.tensor(n_q, n_k)
    matrix[:, 0] = True  # the module returns NaN for an empty row
    module = torch.nn.MultiheadAttention(4, 2, batch_first=True, dtype=torch.float64)
    x = torch.ones(1, max(n_q, n_k), 4, dtype=torch.float64)
    _, weights = module(
        x[:, :n_q], x[:, :n_k], x[:, :n_k], attn_mask=to_multihead_attention(matrix)
    )
    assert torch.equal(weights[0] > 0, matrix)


@settings(max_examples=40, deadline=None)
@given(rules(batch=2), st.integers(1, LENGTH), st.integers(1, LENGTH))
def test_flex_attention_builds_the_same_blocks(mask, n_q, n_k):
    size = 4
    tiles = mask.tiles(n_q, n_k, block_q=size, block_k=size)
    tiles = torch.tensor(np.broadcast_to(tiles, (2, 1, *tiles.shape[-2:])))
    block = create_block_mask(mask.mask_mod, 2, 1, n_q, n_k, device="cpu", BLOCK_SIZE=size)
    visited = block.to_dense().bool()  # blocks that FlexAttention computes, full or partial
    assert torch.equal(visited, tiles != Tile.EMPTY)
    full_blocks = torch.zeros_like(visited)
    for b, i in np.ndindex(2, tiles.shape[-2]):
        count = block.full_kv_num_blocks[b, 0, i]
        full_blocks[b, 0, i, block.full_kv_indices[b, 0, i, :count].long()] = True
    # FlexAttention pads a last block that is not filled, and then never calls it full.
    whole = (slice(None), slice(None), slice(n_q // size), slice(n_k // size))
    assert torch.equal(full_blocks[whole], (tiles == Tile.FULL)[whole])


@settings(max_examples=40, deadline=None)
@given(rules(batch=2), st.integers(1, 6), st.integers(1, LENGTH), st.data())
def test_flex_attention_sees_a_ragged_batch_as_we_do(mask, n_q, n_k, data):
    q_pos, k_pos = (
        torch.tensor(data.draw(ragged_positions(2, n)), dtype=torch.int64) for n in (n_q, n_k)
    )
    block = create_block_mask(
        mask.mask_mod_at(q_pos, k_pos), 2, 1, n_q, n_k, device="cpu", BLOCK_SIZE=1
    )
    visited = block.to_dense().bool()
    full_blocks = torch.zeros_like(visited)
    for b, i in np.ndindex(2, n_q):
        count = block.full_kv_num_blocks[b, 0, i]
        full_blocks[b, 0, i, block.full_kv_indices[b, 0, i, :count].long()] = True
    assert torch.equal(full_blocks, mask.tensor(q_pos, k_pos))


def test_mask_mod_at_moves_the_queries_behind_a_cache():
    mod = causal().mask_mod_at(range(3, 5))
    q, k = torch.arange(2)[:, None], torch.arange(5)[None, :]
    assert torch.equal(mod(0, 0, q, k), causal().tensor(torch.tensor([3, 4]), 5))


@given(rules(), st.integers(1, LENGTH))
def test_what_is_known_of_a_rule_is_true(mask, n):
    matrix = mask.matrix(n)
    assert not (mask.never_ahead and np.triu(matrix, k=1).any())
    assert not mask.is_causal or np.array_equal(matrix, causal().matrix(n))
    assert not mask.is_full or matrix.all()


def test_which_rules_are_known_to_be_causal_or_full():
    assert full().is_full and (full() & full()).is_full
    assert not (full() & causal()).is_full and not (~full()).is_full
    for mask in (causal(), prefix_lm(0), causal() & full(), full() & causal(), causal() | causal()):
        assert mask.is_causal and not mask.is_full and mask.never_ahead
    for mask in (prefix_lm(1), causal() & sinks(1), ~causal(), causal() | full(), full()):
        assert not mask.is_causal


def test_which_rules_are_known_never_to_look_ahead():
    assert (causal() & full()).never_ahead and (causal() | sliding_window(2)).never_ahead
    assert not (causal() | sinks(1)).never_ahead and not (~causal()).never_ahead
    assert not prefix_lm(2).never_ahead


# --- the forms agree with each other -------------------------------------------------------------


@given(rules(batch=3), sizes, sizes, st.integers(1, 4), st.integers(1, 4))
def test_tiles_are_what_the_dense_matrix_says(mask, n_q, n_k, block_q, block_k):
    matrix = mask.matrix(n_q, n_k)
    tiles = mask.tiles(n_q, n_k, block_q=block_q, block_k=block_k)
    assert tiles.shape[-2:] == (-(-n_q // block_q), -(-n_k // block_k))
    for *lead, i, j in np.ndindex(tiles.shape):
        cells = matrix[
            (*lead, slice(i * block_q, (i + 1) * block_q), slice(j * block_k, (j + 1) * block_k))
        ]
        expected = Tile.FULL if cells.all() else Tile.PARTIAL if cells.any() else Tile.EMPTY
        assert tiles[(*lead, i, j)] == expected


@given(rules(batch=2), sizes, sizes)
def test_numpy_torch_and_the_bias_say_the_same(mask, n_q, n_k):
    matrix = mask.matrix(n_q, n_k)
    tensor = mask.tensor(n_q, n_k)
    assert matrix.dtype == bool and np.array_equal(tensor.numpy(), matrix)
    assert matrix.shape == ((n_q, n_k) if mask.batch is None else (2, 1, n_q, n_k))
    for bias in (mask.bias(n_q, n_k), mask.bias(n_q, n_k, torch.float16).numpy()):
        assert np.array_equal(bias == 0, matrix) and np.array_equal(bias == -np.inf, ~matrix)


@given(rules(batch=2), rules(batch=2), sizes)
def test_composition_is_boolean_algebra(a, b, n):
    def dense(mask):
        return np.broadcast_to(mask.matrix(n), (2, 1, n, n))

    assert np.array_equal(dense(a & b), dense(a) & dense(b))
    assert np.array_equal(dense(a | b), dense(a) | dense(b))
    assert np.array_equal(dense(~a), ~dense(a))


@given(rules(batch=3), sizes, sizes, st.integers(1, 4), st.booleans(), st.data())
def test_a_ragged_batch_is_each_sequence_by_itself(mask, n_q, n_k, block, shared_keys, data):
    q_pos = np.array(data.draw(ragged_positions(3, n_q)), int).reshape(3, n_q)
    k_pos = np.array(data.draw(ragged_positions(3, n_k)), int).reshape(3, n_k)
    k_pos = np.arange(n_k) if shared_keys else k_pos
    matrix = mask.matrix(q_pos, k_pos)
    assert matrix.shape == (3, 1, n_q, n_k)
    whole = np.broadcast_to(mask.matrix(LENGTH), (3, 1, LENGTH, LENGTH))
    for b, i, j in np.ndindex(3, n_q, n_k):
        q, k = q_pos[b, i], k_pos[j] if shared_keys else k_pos[b, j]
        assert matrix[b, 0, i, j] == (q >= 0 and k >= 0 and whole[b, 0, q, k])
    assert np.array_equal(mask.tensor(torch.tensor(q_pos), k_pos).numpy(), matrix)
    assert np.array_equal(mask.bias(q_pos, k_pos) == 0, matrix)
    dense = Mask.from_matrix(matrix)
    assert np.array_equal(
        mask.tiles(q_pos, k_pos, block_q=block, block_k=block),
        dense.tiles(n_q, n_k, block_q=block, block_k=block),
    )


@given(rules(batch=2))
def test_a_pickled_mask_is_the_same_mask(mask):
    for twin in (pickle.loads(pickle.dumps(mask)), copy.deepcopy(mask)):
        assert np.array_equal(twin.matrix(LENGTH), mask.matrix(LENGTH))
        assert repr(twin) == repr(mask) and twin.describe() == mask.describe()
        for known in ("batch", "length", "least_keys", "never_ahead", "is_causal", "is_full"):
            assert getattr(twin, known) == getattr(mask, known)


def test_a_saved_model_keeps_its_mask():
    model = torch.nn.Module()
    model.mask = causal() & not_padding(torch.tensor([[True, False], [True, True]]))
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    twin = torch.load(file, weights_only=False)
    assert torch.equal(twin.mask.tensor(2), model.mask.tensor(2))


@given(rules(batch=2), st.integers(0, LENGTH), st.integers(0, LENGTH))
def test_a_mask_from_its_matrix_says_the_same_and_composes(mask, n_q, n_k):
    matrix = mask.matrix(n_q, n_k)
    for twin in (Mask.from_matrix(matrix), pickle.loads(pickle.dumps(Mask.from_matrix(matrix)))):
        assert np.array_equal(twin.matrix(n_q, n_k), matrix)
        both = (twin & causal()).matrix(n_q, n_k)
        assert np.array_equal(both, matrix & causal().matrix(n_q, n_k))
        assert twin.never_ahead == (not np.triu(matrix, k=1).any())
        with pytest.raises(ValueError, match=r"q_pos: position .* is beyond the data"):
            twin.matrix(n_q + 1, n_k)


@given(rules(), st.lists(st.integers(0, LENGTH - 1)), st.lists(st.integers(0, LENGTH - 1)))
def test_a_cell_depends_on_its_two_positions_and_nothing_else(mask, q_pos, k_pos):
    everything = mask.matrix(LENGTH)
    some = mask.matrix(np.array(q_pos, dtype=int), np.array(k_pos, dtype=int))
    assert np.array_equal(some, everything[np.ix_(q_pos, k_pos)])


# --- each built-in rule says what its name says --------------------------------------------------


def rows(mask, n):
    return mask.draw(n).replace(" ", "").split("\n")


def test_prefix_rows_see_the_prefix_and_not_the_suffix():
    assert rows(prefix_lm(2), 5) == ["##...", "##...", "###..", "####.", "#####"]


@given(sizes)
def test_prefix_zero_is_causal_and_prefix_n_is_full(n):
    assert np.array_equal(prefix_lm(0).matrix(n), causal().matrix(n))
    assert np.array_equal(prefix_lm(n).matrix(n), full().matrix(n))


def test_one_prefix_a_sequence_gives_a_batched_mask():
    matrix = prefix_lm([0, 2]).matrix(3)
    assert np.array_equal(matrix[0, 0], causal().matrix(3))
    assert np.array_equal(matrix[1, 0], prefix_lm(2).matrix(3))


def test_window_width_counts_the_token_itself():
    assert rows(sliding_window(1), 3) == ["#..", ".#.", "..#"]
    assert rows(sliding_window(2), 4) == ["#...", "##..", ".##.", "..##"]


def test_sinks_documents_padding_and_open_rows():
    assert rows(causal() & (sliding_window(2) | sinks(1)), 4) == ["#...", "##..", "###.", "#.##"]
    assert rows(causal() & same_document([0, 0, 1, 1]), 4) == ["#...", "##..", "..#.", "..##"]
    assert rows(causal() & not_padding([False, True, True]), 3) == ["...", ".#.", ".##"]
    assert rows(causal() | open_rows([1]), 3) == ["#..", "###", "###"]


def test_padding_looks_at_keys_alone_so_that_any_number_of_queries_may_ask():
    padded = not_padding([[True, True], [True, False]])
    assert padded.matrix(3, 2)[:, 0].tolist() == [[[True, True]] * 3, [[True, False]] * 3]
    with pytest.raises(ValueError, match="k_pos: position 2 is beyond"):
        padded.matrix(2, 3)


def test_a_tree_shows_each_draft_token_its_ancestors_and_a_chain_is_causal():
    assert rows(tree([-1, 0, 0, 1]), 4) == ["#...", "##..", "#.#.", "##.#"]
    chain = tree(np.arange(6) - 1)
    assert np.array_equal(chain.matrix(6), causal().matrix(6))


@pytest.mark.parametrize("library", [np.array, torch.tensor])
def test_a_masks_own_data_is_safe_from_later_changes(library):
    ids = library([0, 0, 1])
    mask = same_document(ids)
    ids[:] = 0
    assert not mask.matrix(3)[0, 2]


def test_a_composed_mask_covers_what_the_shortest_data_covers():
    for mask in (
        same_document([0] * 3) & not_padding([True] * 5),
        same_document([0] * 5) | ~not_padding([True] * 3),
    ):
        mask.matrix(3)
        with pytest.raises(ValueError, match="position 3 is beyond"):
            mask.matrix(4)


def test_a_prefix_is_remembered_through_composition():
    assert (~(causal() & prefix_lm(4)) | prefix_lm(2)).least_keys == 4
    assert prefix_lm([1, 3]).least_keys == 3 and causal().least_keys == 0


def test_data_on_a_device_gives_matrices_there():
    mask = same_document(torch.zeros(3, dtype=torch.int64, device="meta"))
    assert (causal() & mask)._device == torch.device("meta") == (~mask)._device
    assert isinstance(same_document(torch.zeros(3, dtype=torch.int64)).matrix(3), torch.Tensor)


def test_an_own_predicate_is_a_mask_like_any_other():
    strided = Mask(lambda q, k: (q - k) % 2 == 0, "every other key") & causal()
    assert rows(strided, 4) == ["#...", ".#..", "#.#.", ".#.#"]
    assert "every other key" in strided.describe()


def test_a_mask_reads_like_its_code_and_describes_itself_in_words():
    mask = causal() & (sliding_window(3) | sinks(1))
    assert repr(mask) == "causal() & (sliding_window(3) | sinks(1))"
    assert "its own position and the 2 before it" in mask.describe()
    assert repr(~mask) == "~(causal() & (sliding_window(3) | sinks(1)))"


# --- conventions --------------------------------------------------------------------------------


@given(rules(batch=2), st.integers(0, 6), st.integers(0, 6))
def test_every_conversion_can_be_undone(mask, n_q, n_k):
    for array in (mask.matrix(n_q, n_k), mask.tensor(n_q, n_k)):
        dtype = torch.float32 if isinstance(array, torch.Tensor) else np.float32
        pairs = [
            from_sdpa(to_sdpa(array)),
            from_sdpa(to_additive(array, dtype)),
            from_additive(to_additive(array, dtype)),
            from_multihead_attention(to_multihead_attention(array, 3), 3),
        ]
        for back in pairs:
            assert type(back) is type(array) and bool((back == array).all())
            assert back.shape == array.shape


def test_multihead_attention_wants_batched_masks_repeated_for_each_head():
    mask = (causal() & not_padding([[True, True], [False, True]])).tensor(2)
    converted = to_multihead_attention(mask, n_heads=2)
    assert converted.shape == (4, 2, 2)
    assert torch.equal(converted[0], converted[1]) and torch.equal(converted[2], converted[3])
    assert torch.equal(~converted[2], mask[1, 0])


def test_key_padding_in_both_dialects():
    real = np.array([[True, True, False]])
    assert np.array_equal(from_key_padding(to_key_padding(real)), real)  # True = ignore
    assert np.array_equal(from_key_padding(real.astype(int)), real)  # 1 = real token


@pytest.mark.parametrize("fill", [-np.inf, np.finfo(np.float32).min, -1e9, -1e4])
def test_every_customary_fill_counts_as_blocked(fill):
    assert from_additive(np.array([0.0, fill], np.float32)).tolist() == [True, False]


def test_what_to_additive_says_about_the_lowest_float():
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        lowest = torch.full((3,), torch.finfo(dtype).min, dtype=dtype)
        assert (lowest + lowest == -torch.inf).all()
        assert torch.allclose(lowest.softmax(-1), torch.full_like(lowest, 1 / 3))
        if dtype == torch.float16:
            assert (lowest - 15 == lowest).all() and (lowest - 16 == -torch.inf).all()
        else:
            assert (lowest - 20_001 == lowest).all()


def test_what_mask_mod_says_about_a_block_mask():
    block = create_block_mask(causal().mask_mod, None, None, 512, 512, device="cpu")
    indices = [block.kv_indices, block.full_kv_indices, block.q_indices, block.full_q_indices]
    assert [(x.dtype, x.numel()) for x in indices] == [(torch.int32, (512 // 128) ** 2)] * 4
    assert 4 * 4 * (131_072 // 128) ** 2 == 16 * 2**20  # bytes
    q = torch.zeros(1, 1, 4, 8)
    with pytest.raises(AttributeError):
        flex_attention(q, q, q, block_mask=causal().mask_mod)


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: causal().matrix(-1), ValueError, "q_pos: expected at least 0; got -1"),
        (lambda: causal().matrix([1, -2]), ValueError, "q_pos: positions are absolute.*-2"),
        (lambda: causal().matrix(2.0), TypeError, "q_pos: expected a count or an array"),
        (lambda: causal().matrix("ab"), TypeError, "q_pos: .*got str"),
        (lambda: causal().matrix(True), TypeError, "q_pos: .*got bool"),
        (lambda: causal().matrix(2, np.ones(2)), TypeError, "k_pos: expected integer.*float64"),
        (lambda: causal().matrix(2, [[[0]]]), ValueError, r"k_pos: .*\[B, T\]; got \[1, 1, 1\]"),
        (lambda: causal().matrix([[0], [-2]]), ValueError, "or -1 where a sequence.*got -2"),
        (lambda: causal().matrix([[0]] * 2, [[0]] * 3), ValueError, "sequences; got 2 .* q_pos, 3"),
        (
            lambda: prefix_lm([1, 2]).matrix([[0]] * 3),
            ValueError,
            r"sequences; got 2 in the data of prefix_lm\(prefix\), 3 in the q_pos",
        ),
        (lambda: Mask.from_matrix([[1, 0]]), TypeError, "matrix: expected boolean .*int"),
        (lambda: Mask.from_matrix([True]), ValueError, r"matrix: expected shape .*got \[1\]"),
        (
            lambda: Mask.from_matrix(np.ones((2, 3, 4, 4), bool)),
            ValueError,
            r"matrix: .*\[B, 1, Tq, Tk\]; got \[2, 3, 4, 4\]",
        ),
        (lambda: sliding_window(0), ValueError, "width: expected at least 1; got 0"),
        (lambda: sliding_window(-3), ValueError, "width: expected at least 1; got -3"),
        (lambda: sliding_window(2.5), TypeError, "width: expected an integer; got float"),
        (lambda: prefix_lm(-1), ValueError, "prefix: expected at least 0; got -1"),
        (lambda: prefix_lm([1, -1]), ValueError, "prefix: expected at least 0; got -1"),
        (lambda: sinks(-1), ValueError, "n: expected at least 0"),
        (lambda: not_padding([1, 0]), TypeError, "valid: expected boolean .*int"),
        (lambda: same_document([0.5]), TypeError, "ids: expected integer"),
        (lambda: same_document([[[0]]]), ValueError, r"ids: expected shape \[T\] or \[B, T\]"),
        (lambda: same_document([0, 1]).matrix(3), ValueError, "position 2 is beyond the data"),
        (lambda: tree([0]), ValueError, "parents: position 0 needs -1 or an earlier.*got 0"),
        (lambda: open_rows([-1]), ValueError, "rows: expected positions of at least 0"),
        (lambda: causal().tiles(4, block_q=0, block_k=2), ValueError, "block_q: .*got 0"),
        (lambda: same_document([[0, 0], [0]]), ValueError, "ids: expected rows of one length"),
        (lambda: causal().matrix([[0], [0, 1]]), ValueError, "q_pos: expected rows of one length"),
        (lambda: causal() and sinks(1), TypeError, "combine masks with &"),
        (
            lambda: from_multihead_attention(np.ones((2, 2, 2), bool), 0),
            ValueError,
            "attn_mask: expected shape",
        ),
        (
            lambda: from_multihead_attention(np.arange(8).reshape(2, 2, 2) > 3, 2),
            ValueError,
            "heads of a sequence have different masks",
        ),
        (lambda: Mask(3, "three"), TypeError, "may_attend: expected a function"),
        (lambda: Mask(lambda q, k: q - k, "diff").matrix(2), TypeError, "boolean array.*int64"),
        (lambda: causal() & np.ones((2, 2), bool), TypeError, "other: .*Mask.from_matrix"),
        (lambda: np.ones((2, 2), bool) | causal(), TypeError, "other: .*Mask.from_matrix"),
        (lambda: torch.ones(2, 2).bool() & causal(), TypeError, "other: .*Mask.from_matrix"),
        (lambda: causal() & 3, TypeError, "other: expected a Mask; got int"),
        (lambda: causal | causal(), TypeError, r"the function causal.*causal\("),
        (lambda: torch.where(causal(), 1, 0), TypeError, r"where: expected tensors.*mask.tensor"),
        (
            lambda: prefix_lm([1, 2]) & prefix_lm([1, 2, 3]),
            ValueError,
            "batch size 2 .* batch size 3",
        ),
        (lambda: to_sdpa(np.ones((2, 2))), TypeError, "mask: expected booleans.*float64"),
        (lambda: to_additive(np.ones(2, bool), int), TypeError, "dtype: expected a floating"),
        (lambda: to_additive(np.ones(2, bool), torch.float32), TypeError, "dtype: .*library"),
        (lambda: from_additive(np.array([0, -1.5])), ValueError, r"bias: .*got -1\.5"),
        (lambda: from_additive(np.array([0.0, np.nan])), ValueError, "bias: .*got nan"),
        (lambda: from_additive(np.array([0, 1])), TypeError, "bias: expected a floating"),
        (lambda: from_key_padding(np.array([0.0])), TypeError, "mask: expected booleans"),
        (lambda: from_key_padding(np.array([2])), ValueError, "holds 0 and 1 only"),
        (
            lambda: to_multihead_attention(np.ones((2, 1, 3, 3), bool)),
            ValueError,
            "n_heads: needed",
        ),
        (
            lambda: from_multihead_attention(np.ones((3, 2, 2), bool), 2),
            ValueError,
            "attn_mask: expected shape",
        ),
    ],
)
def test_bad_input_names_the_argument_what_was_expected_and_what_came(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
