"""Masks and attention are those of others: the ONNX standard's own cases, transformers' masks."""

import importlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.attention import attention
from course_lib.masks import (
    Mask,
    causal,
    from_additive,
    full,
    not_padding,
    same_document,
    sliding_window,
)

# --- ONNX: the operator Attention, versions 23 to 25 ---------------------------------------------


def test_every_case_of_the_onnx_standard_comes_out(monkeypatch):
    """Grouped heads, caches, windows, soft caps, biases, ragged lengths, rows without keys."""
    helper = pytest.importorskip("onnx.helper")
    node = importlib.import_module("onnx.backend.test.case.node")
    cases = []
    monkeypatch.setattr(node, "expect", lambda *case, **more: cases.append((case[0], more)))
    importlib.import_module("onnx.backend.test.case.node.attention")
    assert len(cases) >= 93
    for op, case in cases:
        wanted, *others = case["outputs"]
        options = {a.name: helper.get_attribute_value(a) for a in op.attribute}
        names = [name.lower() for name in op.input if name]
        given = dict(zip(names, map(as_tensor, case["inputs"]), strict=True))
        output, weights = by_our_attention(options, **given)
        expected = [(output, wanted)]
        if options.get("qk_matmul_output_mode") == 3:
            expected.append((weights, others[-1]))
        for ours, theirs in expected:
            theirs = as_tensor(theirs)
            # Half precision: they round after each step, we once.
            tolerance = 1e-5 if theirs.dtype == torch.float32 else 1e-2
            assert torch.allclose(ours, theirs, tolerance, tolerance), case["name"]


def as_tensor(array):
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.astype(np.float32)).bfloat16()
    return torch.from_numpy(array)


def by_our_attention(
    options, q, k, v, attn_mask=None, past_key=None, past_value=None, nonpad_kv_seqlen=None
):
    """The operator in the words of this library; https://onnx.ai/onnx/operators/."""
    merged = q.ndim == 3
    if merged:  # [B, T, H D] -> [B, H, T, D]
        groups = options["kv_num_heads"]
        q = q.unflatten(-1, (options["q_num_heads"], -1)).transpose(1, 2)
        k, v = (x.unflatten(-1, (groups, -1)).transpose(1, 2) for x in (k, v))
    first = torch.tensor([0])  # position of the first query
    if past_key is not None:
        first = torch.tensor([past_key.shape[2]])
        k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
    new, total = q.shape[2], k.shape[2]
    rule = causal() if options.get("is_causal") else full()
    left, right = (options.get(f"{side}_window_size", -1) for side in ("left", "right"))
    if left >= 0:
        rule &= Mask(lambda q, k: q - k <= left, "left window")
    if right >= 0:
        rule &= Mask(lambda q, k: k - q <= right, "right window")
    if nonpad_kv_seqlen is not None:
        first = first if rule.is_full else nonpad_kv_seqlen - new
        rule &= not_padding(torch.arange(total) < nonpad_kv_seqlen[:, None])
    # A query that would stand before the first key sees nothing.
    q_pos = (first[:, None] + torch.arange(new)).clamp(min=-1)
    visible, bias = rule.tensor(q_pos, total), torch.zeros(())
    if attn_mask is not None:
        blocked = attn_mask == (False if attn_mask.dtype == torch.bool else -torch.inf)
        blocked = torch.nn.functional.pad(blocked, (0, total - blocked.shape[-1]), value=True)
        visible = visible & ~blocked
        if attn_mask.dtype != torch.bool:
            bias = torch.nn.functional.pad(attn_mask, (0, total - attn_mask.shape[-1]))
            bias = bias.masked_fill(blocked, 0)

    def score_mod(s):
        cap = options.get("softcap", 0)
        return (cap * torch.tanh(s / cap) if cap else s) + bias

    output, weights = attention(
        q, k, v, visible, scale=options.get("scale"), score_mod=score_mod, empty_rows="zeros"
    )
    return output.transpose(1, 2).flatten(2) if merged else output, weights


# --- transformers: the masks that its models are given -------------------------------------------

masking = pytest.importorskip("transformers.masking_utils")


@st.composite
def theirs_and_ours(draw):
    """(batch, keys in all, a mask function of transformers, the rule that it should be)."""
    batch, total = draw(st.integers(1, 3)), draw(st.integers(1, 9))
    width = draw(st.integers(1, total))
    kind = draw(st.integers(0, 5))
    if kind == 0:
        return batch, total, masking.causal_mask_function, causal()
    if kind == 1:
        function = masking.sliding_window_causal_mask_function(width)
        return batch, total, function, sliding_window(width)
    if kind == 2:
        near = Mask(lambda q, k: abs(q - k) <= width, "near")
        return batch, total, masking.sliding_window_bidirectional_mask_function(width), near
    if kind == 3:
        left = torch.tensor(draw(st.lists(st.integers(0, 4), min_size=batch, max_size=batch)))
        chunks = (torch.arange(total) - left[:, None]) // width
        function = masking.chunked_causal_mask_function(width, left)
        return batch, total, function, causal() & same_document(chunks)
    row = st.lists(st.integers(0, 2), min_size=total, max_size=total)
    ids = torch.tensor(draw(st.lists(row, min_size=batch, max_size=batch)))
    if kind == 4:
        packed = masking.packed_sequence_mask_function(ids)
        both = masking.and_masks(packed, masking.causal_mask_function)
        return batch, total, both, causal() & same_document(ids)
    prefix = masking.blockwise_overlay(ids - 1)  # group -1 is text
    not_text = Mask.from_matrix((ids > 0)[:, None, :, None].expand(-1, 1, -1, total))
    blocks = same_document(ids) & not_text
    return batch, total, masking.or_masks(masking.causal_mask_function, prefix), causal() | blocks


@settings(deadline=None, max_examples=300)
@given(theirs_and_ours(), st.data())
def test_masks_are_those_that_transformers_gives_its_models(pair, data):
    batch, total, function, rule = pair
    first_key = data.draw(st.integers(0, total - 1))
    first_query = data.draw(st.integers(0, total - 1))
    sizes = {
        "batch_size": batch,
        "q_length": total - first_query,
        "kv_length": total - first_key,
        "q_offset": first_query,
        "kv_offset": first_key,
    }
    real = None
    if data.draw(st.booleans()):  # 1 = real token, as the tokenizer says
        row = st.lists(st.booleans(), min_size=total, max_size=total)
        real = torch.tensor(data.draw(st.lists(row, min_size=batch, max_size=batch)))
        rule &= not_padding(real)
    ours = rule.tensor(range(first_query, total), range(first_key, total))
    ours = ours.expand(batch, 1, -1, -1)
    options = {"mask_function": function, "attention_mask": real, **sizes}
    assert torch.equal(masking.sdpa_mask(**options, allow_is_causal_skip=False), ours)
    eager = masking.eager_mask(**options, dtype=torch.float32)
    assert torch.equal(from_additive(eager), ours)


@given(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), min_size=1, max_size=3))
def test_packed_texts_whose_positions_start_anew_are_those_of_transformers(lengths):
    """`position_ids` that go 0 1 2 0 1 ...: their window counts within each text, so does ours."""
    total = max(map(sum, lengths))
    rows = [[*row, total - sum(row)] for row in lengths]
    position_ids = torch.tensor([[p for n in row for p in range(n)] for row in rows])
    ids = masking.find_packed_sequence_indices(position_ids)
    ids = torch.zeros_like(position_ids) if ids is None else ids
    function = masking.packed_sequence_compatibility_function(
        masking.sliding_window_causal_mask_function(2), position_ids, ids
    )
    theirs = masking.sdpa_mask(
        len(lengths), total, total, mask_function=function, allow_is_causal_skip=False
    )
    ours = sliding_window(2).tensor(position_ids, position_ids) & same_document(ids).tensor(total)
    assert torch.equal(theirs, ours)
