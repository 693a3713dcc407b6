"""Claims about `Llama`: the logits and texts of transformers, with every cache, chunk and padding.

`make test` compares with what transformers said of the real model (`tests/helpers/real_reference`),
the long suite with transformers itself.
"""

import json
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.attention import attention
from course_lib.cache import ConcatCache
from course_lib.generation import generate, left_pad
from course_lib.gguf_file import read_gguf
from course_lib.leaks import LeakError, assert_causal, influence
from course_lib.llama import Llama
from course_lib.llama_weights import from_gguf
from course_lib.masks import causal, full, prefix_lm, sinks, sliding_window
from course_lib.pretrained import load
from tests.helpers.gguf_models import SMALL, write_model
from tests.helpers.real_reference import NEW, RECORD, record, summary, transformers_model

TOKENS = torch.randint(SMALL.vocab_size, (3, 24), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Llama:
    path = write_model(tmp_path_factory.mktemp("gguf") / "m.gguf")
    return from_gguf(read_gguf(path), torch.float64)


# --- masks, caches, padding ----------------------------------------------------------------------


@given(
    kind=st.sampled_from(["concat", "static", "ring"]),
    cuts=st.lists(st.integers(1, 23), max_size=4),
    rule=st.sampled_from(["causal", "window"]),
)
@settings(max_examples=40, deadline=None)
def test_any_cache_and_any_split_give_what_the_whole_text_gives(small, kind, cuts, rule):
    mask = sliding_window(8) if rule == "window" or kind == "ring" else causal()
    model = small.with_mask(mask)
    cache = model.new_cache(kind, 8 if kind == "ring" else None)
    edges = sorted({0, *cuts, TOKENS.shape[1]})
    parts = [model(TOKENS[:, a:b], cache=cache) for a, b in pairwise(edges)]
    torch.testing.assert_close(torch.cat(parts, dim=1), model(TOKENS), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", [None, "concat", "static"])
def test_padding_at_the_left_changes_no_text(small, kind):
    texts = [TOKENS[0].tolist(), TOKENS[1, :9].tolist(), TOKENS[2, :2].tolist()]
    batch, padding = left_pad(texts)
    cache = kind and small.new_cache(kind)
    logits = small(batch, padding=padding, cache=cache)
    for row, text, pad in zip(logits, texts, padding.tolist(), strict=True):
        alone = small(torch.tensor([text]))[0]
        torch.testing.assert_close(row[pad:], alone, rtol=1e-9, atol=1e-9)


def test_rotary_scores_depend_on_distances_alone(small):
    every = torch.arange(TOKENS.shape[1])
    torch.testing.assert_close(small(TOKENS, positions=every + 1000), small(TOKENS))
    gap = small(TOKENS, positions=every + 5 * (every > 10))
    torch.testing.assert_close(gap[:, :11], small(TOKENS)[:, :11])
    assert not torch.allclose(gap[:, 11:], small(TOKENS)[:, 11:], atol=1e-2)


def test_weights_are_those_of_the_five_steps_and_change_nothing(small):
    logits, weights = small(TOKENS, return_weights=True)
    torch.testing.assert_close(logits, small(TOKENS), rtol=1e-9, atol=1e-9)
    assert len(weights) == SMALL.layers
    for layer in weights:
        assert layer.shape == (3, SMALL.heads, 24, 24)
        torch.testing.assert_close(layer.sum(-1), torch.ones_like(layer[..., 0]))
        assert not layer.triu(1).any()


def test_what_attends_can_be_replaced_from_outside(small):
    seen = []

    def noted(q, k, v, mask):
        seen.append((q.shape[1], k.shape[1], mask.dtype))
        return attention(q, k, v, mask)

    torch.testing.assert_close(small(TOKENS, attend=noted), small(TOKENS), rtol=1e-9, atol=1e-9)
    assert seen == [(SMALL.heads, SMALL.kv_heads, torch.bool)] * SMALL.layers
    blind = small(TOKENS, attend=lambda q, k, v, mask: attention(q, k, v, None))
    torch.testing.assert_close(blind, small.with_mask(full())(TOKENS), rtol=1e-9, atol=1e-9)


def test_another_mask_shares_the_weights_and_leaves_the_model_as_it_was(small):
    twin = small.with_mask(prefix_lm(5))
    assert twin.token_embedding is small.token_embedding
    assert repr(small.mask) == repr(causal()) and repr(twin.mask) == repr(prefix_lm(5))
    assert not torch.allclose(twin(TOKENS), small(TOKENS))
    with pytest.raises(ValueError, match="lets a cached position see a new one"):
        cache = small.with_mask(full()).new_cache()
        small.with_mask(full())(TOKENS[:, :4], cache=cache)
        small.with_mask(full())(TOKENS[:, 4:], cache=cache)


def test_bad_input_is_answered_at_the_door_and_leaves_the_cache_as_it_was(small):
    cache = small.new_cache("static")
    small(TOKENS[:, :4], cache=cache)
    for wrong, words in (
        (TOKENS.double(), "tokens: expected integers"),
        (TOKENS[0], r"tokens: expected shape \[B, T\]"),
        (TOKENS + SMALL.vocab_size, r"tokens: expected token numbers in 0\.\.319"),
        (TOKENS.repeat(1, 3), r"expected at most 64 positions"),
    ):
        with pytest.raises((TypeError, ValueError), match=words):
            small(wrong, cache=cache)
    with pytest.raises(ValueError, match=f"cache: expected {SMALL.layers} different caches"):
        small(TOKENS, cache=[ConcatCache()])
    assert [layer.length for layer in cache] == [4] * SMALL.layers


# --- the real model ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real():
    return load()


@pytest.fixture(scope="module")
def recorded():
    return json.loads(RECORD.read_text("utf-8"))["rows"]


def test_the_logits_are_those_of_transformers(real, recorded):
    model, tokenizer = real
    for row in recorded:
        found = summary(model(torch.tensor([tokenizer.encode(row["prompt"])]))[0])
        assert found["logits_of"] == row["logits_of"]
        assert found["logits"] == pytest.approx(row["logits"], abs=1e-3)
        assert found["log_sum_exp"] == pytest.approx(row["log_sum_exp"], abs=1e-3)


def test_the_texts_are_those_of_transformers_side_by_side_in_a_padded_batch(real, recorded):
    model, tokenizer = real
    batch, padding = left_pad([tokenizer.encode(row["prompt"]) for row in recorded])
    texts = generate(model, batch, NEW, temperature=0, padding=padding, cache="static")
    wanted = [row["continuation"] for row in recorded]
    assert texts[:, batch.shape[1] :].tolist() == wanted


def test_the_real_model_does_not_peek_and_without_its_mask_it_does(real):
    model, tokenizer = real
    tokens = torch.tensor([tokenizer.encode("The cat sat on the mat")])
    how = {"vocab_size": model.config.vocab_size, "trials": 1}
    assert_causal(model, tokens, **how)
    assert (influence(model, tokens, **how) == causal().matrix(tokens.shape[1])).all()
    with pytest.raises(LeakError, match="output 0 changes when input"):
        assert_causal(model.with_mask(full()), tokens, **how)


@pytest.mark.long
def test_every_logit_and_every_text_is_that_of_transformers(real, recorded):
    """With every cache, chunk split and padding; a minute and a half, 2 GB."""
    model, tokenizer = real
    theirs = transformers_model()
    prompts = [tokenizer.encode(row["prompt"]) for row in recorded]
    with torch.no_grad():
        for prompt in prompts:
            tokens = torch.tensor([prompt])
            assert (model(tokens) - theirs(tokens).logits).abs().max() < 1e-3
        batch, padding = left_pad(prompts, tokenizer.end)
        valid = torch.arange(batch.shape[1]) >= padding[:, None]
        logits = theirs(
            batch, attention_mask=valid.long(),
            position_ids=(valid.cumsum(-1) - 1).clamp(min=0),
        ).logits  # fmt: skip
        ours = model(batch, padding=padding)
        assert (ours - logits)[valid].abs().max() < 1e-3
    assert record(theirs)["rows"] == recorded
    for row, prompt in zip(recorded, prompts, strict=True):
        ways = [("concat", None), ("static", 1), ("static", 3), ("static", None)]
        caches = [*ways, (model.new_cache("ring", 64), None)]
        for cache, chunk in caches:
            text = generate(model, prompt, NEW, temperature=0, cache=cache, chunk=chunk)
            assert text[len(prompt) :].tolist() == row["continuation"], (row["prompt"], cache)
    wide = causal() & (sliding_window(64) | sinks(1))
    text = generate(model.with_mask(wide), prompts[0], NEW, temperature=0)
    assert text[len(prompts[0]) :].tolist() == recorded[0]["continuation"]
