"""Claims about the small GPT: its shape, its mask, its reproducibility, and what it refuses."""

import copy
import io
import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from course_lib.attention_kernels import five_steps
from course_lib.cache import StaticCache
from course_lib.gpt import GPT, GPTConfig, evaluating
from course_lib.masks import (
    Mask,
    causal,
    full,
    prefix_lm,
    same_document,
    sinks,
    sliding_window,
)
from tests.helpers.paged_cache import paged_caches

SMALL = GPTConfig(vocab_size=11, context=9, layers=2, heads=2, width=8)


def model(seed: int = 0, config: GPTConfig = SMALL, **options: object) -> GPT:
    """A small model; its weights are enlarged so that attention is far from uniform."""
    gpt = GPT(config, np.random.default_rng(seed), **options)
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.mul_(10.0 if parameter.ndim > 1 else 1.0)
    return gpt


def texts(n: int, length: int, seed: int = 0) -> torch.Tensor:
    """Random word numbers, shape [n, length]."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 11, size=(n, length)))


@given(st.integers(1, 3), st.integers(1, 9), st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_future_tokens_never_change_the_past(batch: int, length: int, seed: int) -> None:
    gpt, tokens = model(seed), texts(batch, length, seed)
    for t in range(length):
        changed = torch.cat([tokens[:, : t + 1], texts(batch, length - t - 1, seed + 1)], dim=1)
        assert torch.equal(gpt(changed)[:, : t + 1], gpt(tokens)[:, : t + 1])


def test_a_shorter_text_gives_the_same_logits_as_the_beginning_of_a_longer_one() -> None:
    gpt, tokens = model(), texts(3, 9)
    for t in range(1, 10):
        torch.testing.assert_close(gpt(tokens[:, :t]), gpt(tokens)[:, :t], rtol=0, atol=1e-12)


def test_without_the_mask_every_position_depends_on_the_last_word() -> None:
    gpt, tokens = model(masking="never"), texts(1, 6)
    changed = tokens.clone()
    changed[0, -1] = (changed[0, -1] + 1) % 11
    difference = (gpt(tokens) - gpt(changed)).abs().amax(dim=(0, 2))
    assert (difference > 1e-6).all()


def test_masking_in_training_only_is_honest_in_one_mode_and_cheats_in_the_other() -> None:
    tokens = texts(2, 7)
    honest, cheater, odd = (model(masking=m) for m in ("always", "never", "training"))
    odd.train()
    assert torch.equal(odd(tokens), honest(tokens))
    odd.eval()
    assert torch.equal(odd(tokens), cheater(tokens))


@pytest.mark.parametrize("mask", [causal(), full(), prefix_lm(3), sliding_window(2)])
def test_any_mask_is_obeyed_by_the_attention_weights(mask: Mask) -> None:
    _, weights = model(mask=mask)(texts(2, 7), return_weights=True)
    assert [tuple(w.shape) for w in weights] == [(2, 2, 7, 7)] * 2
    for w in weights:
        visible = mask.tensor(7).expand_as(w)
        assert (w[~visible] == 0).all() and (w[visible] > 0).all()
        torch.testing.assert_close(w.sum(dim=-1), torch.ones(2, 2, 7, dtype=torch.float64))


def test_a_full_mask_is_the_same_as_no_mask() -> None:
    tokens = texts(2, 7)
    torch.testing.assert_close(model(mask=full())(tokens), model(masking="never")(tokens))


def test_the_model_is_a_transformer_written_with_library_functions() -> None:
    """An independent forward pass, from the parameters and torch's own attention."""
    gpt, tokens = model(), texts(3, 7)
    x = gpt.token_embedding.weight[tokens] + gpt.position_embedding.weight[:7]
    for block in gpt.blocks:
        h = F.layer_norm(x, (8,), block.norm_1.weight, block.norm_1.bias)
        q, k, v = F.linear(h, block.attention.qkv.weight, block.attention.qkv.bias).split(8, -1)
        q, k, v = (y.reshape(3, 7, 2, 4).permute(0, 2, 1, 3) for y in (q, k, v))
        h = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + block.attention.out(h.permute(0, 2, 1, 3).reshape(3, 7, 8))
        h = F.layer_norm(x, (8,), block.norm_2.weight, block.norm_2.bias)
        h = F.gelu(F.linear(h, block.up.weight, block.up.bias), approximate="tanh")
        x = x + F.linear(h, block.down.weight, block.down.bias)
    x = F.layer_norm(x, (8,), gpt.norm.weight, gpt.norm.bias)
    torch.testing.assert_close(gpt(tokens), x @ gpt.head.weight.T, rtol=1e-10, atol=1e-10)


def test_word_order_matters_through_positions_alone() -> None:
    """Without mask and positions, permuting the words permutes the output."""
    gpt, tokens = model(masking="never"), texts(1, 6)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    assert not torch.allclose(gpt(tokens[:, order]), gpt(tokens)[:, order])
    gpt.position_embedding.weight.data.zero_()
    torch.testing.assert_close(gpt(tokens[:, order]), gpt(tokens)[:, order])


def test_a_seed_gives_the_same_model_and_another_seed_another() -> None:
    tokens = texts(1, 5)
    assert torch.equal(model(1)(tokens), model(1)(tokens))
    assert not torch.equal(model(1)(tokens), model(2)(tokens))


def test_initial_weights_follow_gpt_2() -> None:
    config = GPTConfig(vocab_size=50, context=50, layers=2, heads=4, width=64)
    gpt = GPT(config, np.random.default_rng(0))
    assert gpt.token_embedding.weight.std().item() == pytest.approx(0.02, rel=0.05)
    block = gpt.blocks[0]
    for added in (block.attention.out, block.down):
        assert added.weight.std().item() == pytest.approx(0.02 / 2, rel=0.05)
        assert (added.bias == 0).all()
    assert (block.norm_1.weight == 1).all() and (gpt.norm.bias == 0).all()


def test_an_untrained_model_is_nearly_indifferent() -> None:
    gpt = GPT(SMALL, np.random.default_rng(0))
    log_p = torch.log_softmax(gpt(texts(4, 9)), dim=-1)
    assert (log_p.exp() - 1 / 11).abs().max() < 0.02


def test_with_masking_copies_and_leaves_the_original_alone() -> None:
    gpt, tokens = model(), texts(1, 5)
    before = gpt(tokens)
    twin = gpt.with_masking("never")
    assert not torch.equal(twin(tokens), before)
    with torch.no_grad():
        twin.head.weight.zero_()
    assert torch.equal(gpt(tokens), before) and gpt.masking == "always"


def test_float32_and_float64_models_agree() -> None:
    tokens = texts(2, 6)
    single, double = model(dtype=torch.float32), model()
    assert single(tokens).dtype == torch.float32
    torch.testing.assert_close(single(tokens).double(), double(tokens), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("mode", [True, False])
def test_evaluating_restores_the_mode_even_after_an_error(mode: bool) -> None:
    gpt = model().train(mode)
    with pytest.raises(RuntimeError), evaluating(gpt):
        assert not gpt.training and not torch.is_grad_enabled()
        raise RuntimeError
    assert gpt.training is mode and torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("tokens", "error", "message"),
    [
        (torch.zeros(1, 3), TypeError, "expected integers; got torch.float32"),
        (torch.zeros(1, 3, dtype=torch.bool), TypeError, "expected integers; got torch.bool"),
        (torch.zeros(3, dtype=torch.long), ValueError, r"shape \[B, T\], T > 0; got \[3\]"),
        (torch.zeros(2, 0, dtype=torch.long), ValueError, r"got \[2, 0\]"),
        (torch.zeros(1, 10, dtype=torch.long), ValueError, "at most 9 positions"),
        (torch.zeros(1, 3, dtype=torch.long, device="meta"), ValueError, "model, cpu; got meta"),
    ],
)
def test_bad_tokens_are_refused(tokens: torch.Tensor, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        model()(tokens)


def test_bad_sizes_and_modes_are_refused() -> None:
    with pytest.raises(ValueError, match="heads: expected a divisor of width 48; got 5"):
        GPTConfig(24, 24, heads=5)
    with pytest.raises(ValueError, match="layers: expected at least 1; got 0"):
        GPTConfig(24, 24, layers=0)
    with pytest.raises(TypeError, match=r"context: expected an integer; got 2\.5"):
        GPTConfig(24, 2.5)
    with pytest.raises(ValueError, match=r"masking: expected one of .* got 'sometimes'"):
        GPT(SMALL, np.random.default_rng(0), masking="sometimes")


# --- caches, shared keys, rotary positions, padding --------------------------------------------

CONFIGS = st.builds(
    lambda heads, kv, positions, tied: GPTConfig(
        11, 12, layers=2, heads=heads, width=8, kv_heads=kv, positions=positions, tied=tied
    ),
    st.just(4),
    st.sampled_from([None, 1, 2, 4]),
    st.sampled_from(["learned", "rotary"]),
    st.booleans(),
)
#: How far rounding may carry the logits, relative to the largest; a wrong mask moves them by 0.3.
DTYPES = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 0.1, torch.float16: 0.02}


def chunks(tokens: torch.Tensor, cuts: list[int]) -> list[torch.Tensor]:
    """A text cut at some places."""
    length = tokens.shape[1]
    ends = sorted({c % length for c in cuts} | {0, length})
    return [tokens[:, a:b] for a, b in pairwise(ends)]


def fed_in_parts(gpt: GPT, parts: list[torch.Tensor], cache: list, **options: object):
    """Logits of a text that is fed chunk by chunk."""
    with evaluating(gpt):
        return torch.cat([gpt(part, cache=cache, **options) for part in parts], dim=1)


@given(
    CONFIGS,
    st.sampled_from(["concat", "static", "ring"]),
    st.integers(1, 3),  # batch
    st.integers(1, 12),  # length
    st.integers(1, 12),  # window
    st.lists(st.integers(0, 100), max_size=12),
    st.sampled_from(list(DTYPES)),
    st.integers(0, 2**32),
)
@settings(max_examples=300, deadline=None)
def test_a_cache_gives_the_same_logits_however_the_text_is_cut(
    config, kind, batch, length, window, cuts, dtype, seed
) -> None:
    rule = sliding_window(window) if kind == "ring" else causal()
    gpt = model(seed, config, mask=rule, dtype=dtype)
    cache = gpt.new_cache(kind, window if kind == "ring" else None)
    tokens = texts(batch, length, seed)
    with torch.no_grad():
        whole = gpt(tokens)
    parts = fed_in_parts(gpt, chunks(tokens, cuts), cache)
    scale = whole.abs().max().clamp(min=1)
    assert parts.dtype == dtype and (parts - whole).abs().max() <= DTYPES[dtype] * scale


@given(
    CONFIGS,
    st.sampled_from([None, "concat", "static", "ring"]),
    st.lists(st.integers(1, 8), min_size=1, max_size=4),  # lengths of the texts
    st.lists(st.integers(0, 100), max_size=8),
    st.booleans(),  # whether every chunk comes with the padding, or the first one only
    st.integers(0, 2**32),
)
@settings(max_examples=200, deadline=None)
def test_left_padding_changes_no_real_word(config, kind, lengths, cuts, again, seed) -> None:
    rule = sliding_window(3) if kind == "ring" else causal()
    gpt = model(seed, config, mask=rule)
    tokens = texts(len(lengths), max(lengths), seed)
    padding = max(lengths) - torch.tensor(lengths)
    if kind is None:
        with torch.no_grad():
            logits = gpt(tokens, padding=padding)
    else:
        cache, parts = gpt.new_cache(kind, 3 if kind == "ring" else None), chunks(tokens, cuts)
        first = fed_in_parts(gpt, parts[:1], cache, padding=padding)
        options = {"padding": padding} if again else {}
        rest = [fed_in_parts(gpt, [part], cache, **options) for part in parts[1:]]
        logits = torch.cat([first, *rest], dim=1)
    assert torch.isfinite(logits).all()
    for row, text, pad in zip(logits, tokens, padding, strict=True):
        with torch.no_grad():
            alone = gpt(text[None, pad:])[0]
        torch.testing.assert_close(row[pad:], alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("first", "second"), [(None, [2, 0]), ([2, 0], [0, 0]), ([2, 0], [1, 0])])
def test_chunks_of_a_text_cannot_differ_in_their_padding(first, second) -> None:
    gpt, tokens = model(0), texts(2, 6)
    cache = gpt.new_cache()
    with torch.no_grad():
        gpt(tokens[:, :4], cache=cache, padding=first and torch.tensor(first))
    refused(
        gpt,
        cache,
        ValueError,
        "padding: expected .* as for the positions in the cache",
        tokens[:, 4:],
        padding=second and torch.tensor(second),
    )
    for layer in cache:
        layer.crop(0)  # an emptied cache takes another text
    with torch.no_grad():
        gpt(tokens, cache=cache, padding=second and torch.tensor(second))


def test_a_cache_remembers_the_padding_that_it_was_told_and_not_what_became_of_it() -> None:
    gpt, tokens, padding = model(0), texts(2, 6), torch.tensor([2, 0])
    cache = gpt.new_cache()
    with torch.no_grad():
        gpt(tokens[:, :4], cache=cache, padding=padding)
    padding[0] = 1
    message = r"padding: expected \[2, 0\], as for the positions in the cache; got \[1, 0\]"
    refused(gpt, cache, ValueError, message, tokens[:, 4:], padding=padding)


@pytest.mark.parametrize("layers", [1, 2])
def test_a_rule_with_the_data_of_other_texts_is_refused(layers: int) -> None:
    config = GPTConfig(11, 9, layers=layers, heads=2, width=8)
    gpt = model(config=config, mask=causal() & same_document([[0, 0, 1], [0, 1, 1]]))
    for batch in (1, 3):
        with pytest.raises(ValueError, match=f"tokens: expected 2 sequences, .* got {batch}"):
            gpt(texts(batch, 3))
    cache = gpt.new_cache()
    with evaluating(gpt):
        gpt(texts(2, 1), cache=cache)
    refused(gpt, cache, ValueError, "tokens: expected 2 sequences", texts(1, 1))


@given(CONFIGS, st.integers(1, 12), st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_training_mode_and_evaluation_mode_compute_the_same(config, length, seed) -> None:
    gpt, tokens = model(seed, config), texts(2, length, seed)
    assert torch.equal(gpt.train()(tokens), gpt.eval()(tokens))


@given(CONFIGS, st.integers(1, 12), st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_the_fused_kernel_and_the_five_steps_agree(config, length, seed) -> None:
    """Asked for weights, attention is computed step by step; otherwise by one kernel."""
    for mask in (causal(), sliding_window(2), prefix_lm(min(3, length)), full()):
        gpt, tokens = model(seed, config, mask=mask), texts(2, length, seed)
        steps, weights = gpt(tokens, return_weights=True)
        torch.testing.assert_close(gpt(tokens), steps, rtol=1e-9, atol=1e-9)
        assert {tuple(w.shape) for w in weights} == {(2, 4, length, length)}


@given(CONFIGS, st.lists(st.integers(0, 6), min_size=1, max_size=4), st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_the_fused_kernel_and_the_five_steps_agree_in_a_padded_batch(config, pads, seed) -> None:
    gpt, tokens, padding = model(seed, config), texts(len(pads), 7, seed), torch.tensor(pads)
    steps, weights = gpt(tokens, padding=padding, return_weights=True)
    torch.testing.assert_close(gpt(tokens, padding=padding), steps, rtol=1e-9, atol=1e-9)
    for w in weights:
        assert w.shape == (len(pads), 4, 7, 7)
        for row, pad in zip(w, pads, strict=True):
            assert (row[:, pad:, :pad] == 0).all()  # real words do not hear padding


@given(CONFIGS, st.integers(1, 11), st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_weights_with_a_cache_are_the_last_rows_of_the_whole(config, first, seed) -> None:
    gpt, tokens = model(seed, config), texts(2, 12, seed)
    cache = gpt.new_cache("static")
    with evaluating(gpt):
        _, whole = gpt(tokens, return_weights=True)
        gpt(tokens[:, :first], cache=cache)
        _, rest = gpt(tokens[:, first:], cache=cache, return_weights=True)
    for a, b in zip(rest, whole, strict=True):
        torch.testing.assert_close(a, b[:, :, first:])


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_shared_keys_are_repeated_keys(kv_heads: int) -> None:
    """Grouped-query attention equals multi-head attention whose key heads are copies."""
    shared = model(config=GPTConfig(11, 9, layers=2, heads=4, width=8, kv_heads=kv_heads))
    plain = model(config=GPTConfig(11, 9, layers=2, heads=4, width=8))
    state, rows = shared.state_dict(), 2 * kv_heads
    for name in [name for name in state if "qkv" in name]:
        q, k, v = state[name].split([8, rows, rows])
        k, v = (
            x.unflatten(0, (kv_heads, 2)).repeat_interleave(4 // kv_heads, 0).flatten(0, 1)
            for x in (k, v)
        )
        state[name] = torch.cat([q, k, v])
    plain.load_state_dict(state)
    torch.testing.assert_close(shared(texts(2, 9)), plain(texts(2, 9)))


def test_a_model_with_rotary_positions_sees_distances_only() -> None:
    """Words that the window hides shift the others, and nothing else."""
    options = {"layers": 1, "heads": 2, "width": 8}
    for positions, equal in (("rotary", True), ("learned", False)):
        config = GPTConfig(11, 9, positions=positions, **options)
        gpt, tokens = model(config=config, mask=sliding_window(3)), texts(2, 9)
        late, early = gpt(tokens)[:, -1], gpt(tokens[:, -3:])[:, -1]
        assert torch.allclose(late, early, rtol=1e-9, atol=1e-9) is equal
    gpt = model(config=GPTConfig(11, 9, positions="rotary", **options), mask=sliding_window(3))
    swapped = tokens[:, [0, 1, 2, 3, 4, 5, 7, 6, 8]]
    assert not torch.allclose(gpt(tokens)[:, -1], gpt(swapped)[:, -1])  # order still matters


def test_a_tied_head_is_the_embedding_and_an_untied_one_is_not() -> None:
    tied = model(config=GPTConfig(11, 9, tied=True))
    assert tied.head.weight is tied.token_embedding.weight
    assert sum(p.numel() for p in model(config=GPTConfig(11, 9)).parameters()) == (
        sum(p.numel() for p in tied.parameters()) + 11 * 48
    )
    twin = tied.with_masking("never")
    assert twin.head.weight is twin.token_embedding.weight


def test_last_only_gives_the_last_row() -> None:
    gpt, tokens = model(), texts(2, 7)
    torch.testing.assert_close(gpt(tokens, last_only=True), gpt(tokens)[:, -1:])


def test_a_refused_draft_can_be_cropped_away() -> None:
    """Speculative decoding: check four words at once, keep two, go on with another third."""
    gpt, tokens, draft = model(), texts(1, 9), texts(1, 9, seed=1)
    for cache in (gpt.new_cache("concat"), gpt.new_cache("static")):
        with evaluating(gpt):
            gpt(tokens[:, :3], cache=cache)
            gpt(torch.cat([tokens[:, 3:5], draft[:, 5:7]], dim=1), cache=cache)
            for layer in cache:
                layer.crop(5)
            rest = gpt(tokens[:, 5:], cache=cache)
            torch.testing.assert_close(rest, gpt(tokens)[:, 5:])


def test_per_sequence_rules_work_with_a_cache() -> None:
    ids = torch.tensor([[0, 0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 2, 2]])
    gpt, tokens = model(mask=causal() & same_document(ids)), texts(2, 7)
    whole = gpt(tokens)
    parts = fed_in_parts(gpt, chunks(tokens, [2, 3, 6]), gpt.new_cache())
    torch.testing.assert_close(parts, whole)


# --- what a model refuses, with the cache left as it was ---------------------------------------


def refused(
    gpt: GPT, cache: list, error: type, message: str | None, tokens=None, **options
) -> None:
    """The call fails, and the cache is bit for bit what it was."""
    before = [(c.length, *(x.clone() for x in c.view())) for c in cache if c.length]
    with evaluating(gpt), pytest.raises(error, match=message):
        gpt(texts(1, 2) if tokens is None else tokens, cache=cache, **options)
    after = [(c.length, *c.view()) for c in cache if c.length]
    assert len(before) == len(after)
    for (n, *held), (m, *now) in zip(before, after, strict=True):
        assert n == m and all(torch.equal(a, b) for a, b in zip(held, now, strict=True))


def filled(gpt: GPT, kind: str = "static", size: int | None = None, length: int = 4) -> list:
    """A cache that has seen some words."""
    cache = gpt.new_cache(kind, size)
    with evaluating(gpt):
        gpt(texts(1, length), cache=cache)
    return cache


def test_a_text_longer_than_the_context_is_refused() -> None:
    gpt = model()
    message = r"at most 9 positions \(the context\); got 10 \(4 cached and 6 new\)"
    refused(gpt, filled(gpt), ValueError, message, texts(1, 6))
    refused(gpt, filled(gpt, size=5), ValueError, r"at most 1 more positions \(capacity 5")
    for kind, size in (("static", 10), ("ring", 10), ("static", 0)):
        with pytest.raises(ValueError, match=r"size: expected 1..9 \(the model's context\)"):
            gpt.new_cache(kind, size)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize("words", [[[3, 11]], [[-1, 3]]])
def test_words_outside_the_vocabulary_are_refused(words: list, positions: str) -> None:
    gpt = model(config=GPTConfig(11, 9, layers=2, heads=2, width=8, positions=positions))
    low, high = min(words[0]), max(words[0])
    message = rf"tokens: expected word numbers in 0\.\.10; got {low}\.\.{high}"
    refused(gpt, filled(gpt), ValueError, message, torch.tensor(words))
    with pytest.raises(ValueError, match=message):
        gpt(torch.tensor(words))


def test_chunks_that_do_not_follow_are_refused() -> None:
    gpt = model()
    for start in (0, 3, 5):
        message = f"start: expected 4, the positions seen so far; got {start}"
        refused(gpt, filled(gpt), ValueError, message, start=start)
    with evaluating(gpt):
        gpt(texts(1, 2), cache=filled(gpt), start=4)
    with pytest.raises(ValueError, match="start: expected 0"):
        gpt(texts(1, 2), start=4)


def test_mismatched_batches_heads_and_dtypes_are_refused() -> None:
    gpt = model()
    refused(gpt, filled(gpt), ValueError, "expected shape .* as held", texts(2, 2))
    other = model(config=GPTConfig(11, 9, layers=2, heads=2, width=8, kv_heads=1))
    refused(other, filled(gpt), ValueError, r"expected shape \[1, 2, 'T', 4\] as held")
    refused(model(dtype=torch.float32), filled(gpt), TypeError, "expected the dtype held")


def test_one_layer_that_does_not_fit_stops_all_of_them() -> None:
    gpt = model()
    cache = filled(gpt)
    wrong = GPT(SMALL, np.random.default_rng(0), dtype=torch.float32)
    refused(gpt, [cache[0], filled(wrong)[1]], TypeError, "expected the dtype held")
    refused(gpt, [cache[0], filled(gpt, length=3)[1]], ValueError, r"got lengths \[4, 3\]")
    refused(gpt, [cache[0], filled(gpt, "concat")[1]], ValueError, "the same kind of cache")
    tight = filled(gpt, size=5)[1]
    refused(gpt, [cache[0], tight], ValueError, r"at most 1 more positions \(capacity 5")
    refused(gpt, [StaticCache(9), StaticCache(1)], ValueError, r"at most 1 more .* \(capacity 1")
    heads = StaticCache(9)
    heads.append(*torch.ones(2, 1, 1, 4, 4, dtype=torch.float64))
    refused(gpt, [cache[0], heads], ValueError, r"expected shape \[1, 1, 'T', 4\] as held")
    refused(gpt, cache[:1], ValueError, "expected 2 different caches, one a layer; got 1")
    refused(gpt, [cache[0], cache[0]], ValueError, "expected 2 different caches")
    with pytest.raises(TypeError, match="one Cache a layer; see new_cache of the model"):
        gpt(texts(1, 2), cache=cache[0])


@pytest.mark.parametrize("place", ["blocks.1.attention.out", "blocks.1.down", "norm", "head"])
def test_a_layer_that_fails_halfway_takes_the_others_back(place: str) -> None:
    gpt = model()
    cache = filled(gpt)

    def broken(*_: object) -> None:
        raise KeyboardInterrupt

    handle = gpt.get_submodule(place).register_forward_hook(broken)
    refused(gpt, cache, KeyboardInterrupt, None)
    handle.remove()
    with evaluating(gpt):
        rest = gpt(texts(1, 7)[:, 4:], cache=cache)
        torch.testing.assert_close(rest, gpt(texts(1, 7))[:, 4:])


def test_a_cache_without_a_mask_is_refused_because_past_keys_would_change() -> None:
    gpt = model()
    for masking in ("never", "training"):
        twin = gpt.with_masking(masking)
        refused(twin, filled(gpt), ValueError, "only the mask keeps past keys from changing")
    message = "lets a cached position see a new one"
    refused(model(mask=full()), filled(gpt), ValueError, message)
    refused(model(mask=prefix_lm(5)), filled(gpt), ValueError, message)
    with evaluating(gpt):  # a prefix that was fed as one chunk is fine
        prefix = model(mask=prefix_lm(4))
        rest = fed_in_parts(prefix, chunks(texts(1, 7), [4, 6]), prefix.new_cache())
        torch.testing.assert_close(rest, prefix(texts(1, 7)))


def test_a_ring_that_is_too_small_for_the_mask_is_refused() -> None:
    rules = [(causal(), 0), (sliding_window(5), 1), (causal() & sinks(2), 0)]
    for rule, position in rules:
        message = f"lets a new word see position {position}, which the cache has dropped"
        gpt = model(mask=rule)
        refused(gpt, filled(gpt, "ring", 3, length=5), ValueError, message, texts(1, 1))
    gpt = model(mask=sliding_window(3))
    with evaluating(gpt):
        gpt(texts(1, 1), cache=filled(gpt, "ring", 3, length=5))


@pytest.mark.parametrize(
    ("padding", "error", "message"),
    [
        ([1], ValueError, r"one number of at least 0 for each of 2 sequences; got \[1\]"),
        ([1, -1], ValueError, r"got \[1, -1\]"),
        ([0.5, 1.0], TypeError, "padding: expected integers"),
        ([True, False], TypeError, "padding: expected integers"),
    ],
)
def test_bad_padding_is_refused(padding: list, error: type, message: str) -> None:
    gpt = model()
    with pytest.raises(error, match=message):
        gpt(texts(2, 3), padding=torch.tensor(padding))


def test_a_rule_that_leaves_a_query_nothing_to_see_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a row that sees none\. Is the rule inverted"):
        model(mask=~causal())(texts(1, 3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "linked"}, "kind: expected one of .* got 'linked'"),
        ({"kind": "ring"}, "size: expected the window of the ring; got None"),
        ({"kind": "concat", "size": 3}, "size: expected none for a concat cache; got 3"),
    ],
)
def test_bad_kinds_of_cache_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model().new_cache(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kv_heads": 3}, "kv_heads: expected a divisor of heads 4; got 3"),
        ({"kv_heads": 0}, "kv_heads: expected at least 1; got 0"),
        ({"positions": "none"}, "positions: expected one of .* got 'none'"),
        ({"positions": "rotary", "width": 12}, "rotary ones expect an even width / heads; got 3"),
    ],
)
def test_bad_kinds_of_model_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GPTConfig(11, 9, **options)


# --- positions for each sequence -----------------------------------------------------------------


@given(
    CONFIGS,
    st.sampled_from([causal(), sliding_window(3), causal() & (sliding_window(2) | sinks(1))]),
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=8), min_size=1, max_size=4),
    st.integers(0, 2**32),
)
@settings(max_examples=100, deadline=None)
def test_ragged_batches_say_what_each_text_says_alone(config, rule, passes, seed) -> None:
    """A cache in blocks; each pass brings 0 to 3 words to each sequence, prompt or not."""
    gpt, longest = model(seed, config, mask=rule), max(map(len, passes))
    plan = [[row[i] if i < len(row) else 0 for row in passes] for i in range(longest)]
    schedule, cache = paged_caches(config.layers, len(passes))
    tokens, said = texts(len(passes), config.context, seed), [[] for _ in passes]
    for new in plan:
        new = [min(n, config.context - a) for n, a in zip(new, schedule.lengths, strict=True)]
        if max(new) == 0 or max(schedule.lengths) + max(new) > config.context:
            continue
        chunk = torch.zeros(len(passes), max(new), dtype=torch.long)
        for b, (start, n) in enumerate(zip(schedule.lengths, new, strict=True)):
            chunk[b, :n] = tokens[b, start : start + n]
        schedule.plan(new)
        with evaluating(gpt):
            logits = gpt(chunk, cache=cache)
        for b, n in enumerate(new):
            said[b].append(logits[b, :n])
    for b, length in enumerate(schedule.lengths):
        if length:
            with evaluating(gpt):
                alone = gpt(tokens[b : b + 1, :length])[0]
            torch.testing.assert_close(torch.cat(said[b]), alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["learned", "rotary"])
def test_logical_positions_are_those_that_one_gives(kind: str) -> None:
    """Two texts packed into one row, each counting from 0, are the two texts."""
    ids, positions = [0, 0, 0, 0, 1, 1, 1], torch.tensor([0, 1, 2, 3, 0, 1, 2])
    config = GPTConfig(11, 9, layers=2, heads=2, width=8, positions=kind)
    gpt, tokens = model(config=config, mask=causal() & same_document(ids)), texts(2, 7)
    packed = gpt(tokens, positions=positions)
    gpt.mask = causal()
    torch.testing.assert_close(packed[:, :4], gpt(tokens[:, :4]))
    torch.testing.assert_close(packed[:, 4:], gpt(tokens[:, 4:]))
    torch.testing.assert_close(packed[:, :4], gpt(tokens, positions=positions.expand(2, 7))[:, :4])


@pytest.mark.parametrize(
    ("positions", "error", "message"),
    [
        (torch.zeros(3), TypeError, "positions: expected integers; got torch.float32"),
        (torch.arange(4), ValueError, r"positions: expected shape \[3\] or \[2, 3\]; got \[4\]"),
        (torch.tensor([0, 1, 9]), ValueError, r"positions: expected numbers in 0..8; got 0..9"),
    ],
)
def test_bad_positions_are_refused(positions, error, message) -> None:
    gpt = model()
    refused(gpt, filled(gpt), error, message, texts(2, 3)[:, :3], positions=positions)


# --- what a model has to survive -----------------------------------------------------------------


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize("kind", ["concat", "static", "ring"])
def test_caches_work_under_autocast(kind: str, positions: str) -> None:
    config = GPTConfig(11, 9, layers=2, heads=4, width=32, kv_heads=2, positions=positions)
    gpt = model(config=config, mask=sliding_window(4), dtype=torch.float32)
    cache, tokens = gpt.new_cache(kind, 4 if kind == "ring" else None), texts(2, 9)
    with torch.autocast("cpu", torch.bfloat16), evaluating(gpt):
        whole = gpt(tokens)
        parts = torch.cat([gpt(t, cache=cache) for t in tokens.split([4, 1, 1, 3], dim=1)], 1)
    assert cache[0].view()[0].dtype == torch.bfloat16
    torch.testing.assert_close(parts, whole, rtol=0.05, atol=0.05 * whole.abs().max().item())
    refused(gpt, cache, ValueError, "at most 9 positions", texts(2, 1))


def test_models_and_caches_can_be_saved_pickled_and_copied() -> None:
    ids = torch.tensor([[0, 0, 1, 1, 1]])
    for mask in (causal(), sliding_window(2) | sinks(1), causal() & same_document(ids)):
        gpt, tokens, file = model(mask=mask), texts(1, 5), io.BytesIO()
        torch.save(gpt, file)
        file.seek(0)
        twins = [torch.load(file, weights_only=False), pickle.loads(pickle.dumps(gpt))]
        for twin in (*twins, copy.deepcopy(gpt)):
            assert torch.equal(twin(tokens), gpt(tokens)) and repr(twin.mask) == repr(mask)
    cache = filled(model(mask=sliding_window(3)), "ring", 3, length=5)
    twin = pickle.loads(pickle.dumps(cache))
    assert all(torch.equal(a, b) for a, b in zip(twin[0].view(), cache[0].view(), strict=True))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kind", ["concat", "static", "ring"])
@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_a_decoding_step_never_waits_for_the_device(positions, kind, padded) -> None:
    """Tensors of the device "meta" have no values, so whoever looks at one fails."""
    config = GPTConfig(11, 9, layers=2, heads=4, width=8, kv_heads=2, positions=positions)
    for rule in (sliding_window(3), causal() if kind != "ring" else sliding_window(2)):
        gpt = GPT(config, np.random.default_rng(0), mask=rule).to("meta")
        cache = gpt.new_cache(kind, 3 if kind == "ring" else None)
        for layer in cache:
            layer.append(*torch.zeros(2, 2, 2, 4, 2, device="meta", dtype=torch.float64))
            layer.padding = torch.tensor([2, 0], device="meta") if padded else None
        word = torch.zeros(2, 1, dtype=torch.long, device="meta")
        with evaluating(gpt):
            for _ in range(4):
                assert gpt(word, cache=cache, last_only=True).shape == (2, 1, 11)


def test_attention_can_be_given_by_the_caller() -> None:
    """A kernel, or a mistake, of one's own: here softmax before the mask (chapter 3)."""

    def mask_late(q, k, v, mask):
        weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) * mask
        return weights @ v, weights

    gpt, tokens = model(), texts(2, 7)
    torch.testing.assert_close(gpt(tokens, attend=five_steps), gpt(tokens))
    wrong, weights = gpt(tokens, attend=mask_late, return_weights=True)
    assert (weights[0].sum(-1)[..., :-1] < 0.99).any() and not torch.allclose(wrong, gpt(tokens))


def test_a_mask_that_was_not_called_is_refused() -> None:
    with pytest.raises(TypeError, match="mask: expected a Mask"):
        GPT(SMALL, None, mask=causal)
