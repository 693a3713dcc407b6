"""Claims about costs: the formulas count what really happens in memory and in the products."""

import ast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import DeepseekV3Config, FalconConfig, GPT2Config, LlamaConfig, MistralConfig

from course_lib.cache import StaticCache
from course_lib.costs import attention_flops, decode_bound, kv_cache_bytes, latent_cache_bytes
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.fast

small = st.integers(1, 5)


@given(small, small, small, small, small, st.sampled_from([torch.float16, torch.float64]))
def test_cache_bytes_are_what_caches_allocate(layers, heads, d, tokens, batch, dtype):
    caches = [StaticCache(tokens) for _ in range(layers)]
    for cache in caches:
        keys = torch.zeros(batch, heads, tokens, d, dtype=dtype)
        cache.append(keys, keys)
    counted = kv_cache_bytes(layers, heads, d, tokens, batch, dtype.itemsize)
    assert sum(cache.nbytes for cache in caches) == counted


def test_a_latent_cache_keeps_one_vector_and_not_two():
    assert 2 * latent_cache_bytes(3, 8 * 16, 10, 2, 4) == kv_cache_bytes(3, 8, 16, 10, 2, 4)


@settings(deadline=None)
@given(small, small, small, small, st.integers(0, 5))
def test_flops_without_a_mask_are_those_that_torch_counts(n, d, heads, batch, cached):
    q = torch.zeros(batch, heads, n, d)
    k = v = torch.zeros(batch, heads, cached + n, d)
    with FlopCounterMode(display=False) as counter:
        torch.softmax(q @ k.transpose(-1, -2), dim=-1) @ v
    assert attention_flops(n, d, heads, batch, cached=cached) == counter.get_total_flops()


@given(st.lists(st.integers(1, 7), min_size=1), small, small)
def test_causal_flops_are_the_same_however_a_text_is_cut_into_chunks(chunks, d, heads):
    ends = np.cumsum([0, *chunks])
    parts = (
        attention_flops(n, d, heads, causal=True, cached=int(end))
        for n, end in zip(chunks, ends, strict=False)
    )
    pairs = np.tri(ends[-1]).sum()
    assert sum(parts) == attention_flops(int(ends[-1]), d, heads, causal=True)
    assert (
        sum(attention_flops(1, d, heads, cached=i) for i in range(ends[-1]))
        == 4 * pairs * d * heads
    )


def test_decoding_cannot_be_faster_than_memory():
    assert decode_bound(100.0, 50.0) == 2.0
    assert decode_bound(100.0, 50.0, 25.0, batch=2) == 2.0  # twice the tokens, twice the bytes
    many = [decode_bound(1e9, 1e9, 1e6, batch=b) for b in (1, 10, 100, 10**6)]
    assert many == sorted(many) and many[-1] < 1e9 / 1e6  # weights are shared, caches are not


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: kv_cache_bytes(0, 1, 1, 1), ValueError, "layers: expected at least 1; got 0"),
        (lambda: kv_cache_bytes(1, 1, 1, -1), ValueError, "tokens: expected at least 0; got -1"),
        (lambda: kv_cache_bytes(1, 1, 1.5, 1), TypeError, "head_dim: expected an integer"),
        (lambda: latent_cache_bytes(1, 0, 1), ValueError, "latent_dim: expected at least 1"),
        (lambda: attention_flops(-1, 1), ValueError, "n: expected at least 0; got -1"),
        (lambda: attention_flops(1, 0), ValueError, "d: expected at least 1; got 0"),
        (lambda: attention_flops(1, 1, cached=-1), ValueError, "cached: expected at least 0"),
        (lambda: decode_bound(0, 1), ValueError, "bandwidth: expected bytes a second, above 0"),
        (lambda: decode_bound(1, -1), ValueError, "weight_bytes: expected at least 0; got -1"),
        (lambda: decode_bound(1, 0), ValueError, "expected something to read"),
        (lambda: decode_bound(1, 1, batch=0), ValueError, "batch: expected at least 1; got 0"),
    ],
)
def test_bad_sizes_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_no_tokens_take_no_room():
    assert kv_cache_bytes(1, 1, 1, 0) == 0 and attention_flops(0, 1) == 0


def chapter_5_shapes():
    """The table `shapes` of chapter 5's source: layers, key heads, head size, context."""
    tree = ast.parse((ROOT / "notebooks" / "source" / "05_kv_cache.py").read_text("utf-8"))
    assigned = (node for node in ast.walk(tree) if isinstance(node, ast.Assign))
    table = next(node.value for node in assigned if ast.unparse(node.targets[0]) == "shapes")
    return eval(compile(ast.Expression(table), "05_kv_cache.py", "eval"), {})


def test_chapter_5_gives_the_models_the_shapes_that_transformers_gives_them_by_default():
    shapes = {name.split(" (")[0]: shape[:3] for name, shape in chapter_5_shapes().items()}
    gpt2, falcon, v3 = GPT2Config(), FalconConfig(), DeepseekV3Config()
    assert shapes["GPT-2 small"] == (gpt2.n_layer, gpt2.n_head, gpt2.n_embd // gpt2.n_head)
    assert falcon.multi_query and shapes["Falcon 7B"] == (
        falcon.num_hidden_layers,
        1,
        falcon.hidden_size // falcon.num_attention_heads,
    )
    for name, config in (("Llama 2 7B", LlamaConfig()), ("Mistral 7B", MistralConfig())):
        size = config.hidden_size // config.num_attention_heads
        assert shapes[name] == (config.num_hidden_layers, config.num_key_value_heads, size)
    latent = v3.kv_lora_rank + v3.qk_rope_head_dim
    assert shapes["DeepSeek-V3"] == (v3.num_hidden_layers, None, latent)
