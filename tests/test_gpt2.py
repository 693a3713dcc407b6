"""Claims about loading GPT-2: the same logits and the same words as Hugging Face's."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.generation import generate
from course_lib.gpt import evaluating
from course_lib.gpt2 import load_gpt2

transformers = pytest.importorskip("transformers")


def hugging_face(seed: int = 0, heads: int = 4, layers: int = 2) -> torch.nn.Module:
    """A small GPT-2 with random weights, biases and norms included; made without a network."""
    config = transformers.GPT2Config(
        vocab_size=50, n_positions=32, n_embd=32, n_layer=layers, n_head=heads,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(0.3 * noise + (parameter.ndim == 1))
    return model


def words(batch: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(50, (batch, length), generator=torch.Generator().manual_seed(seed))


@given(st.sampled_from([1, 2, 4, 8]), st.integers(1, 3), st.integers(1, 32), st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_logits_are_those_of_hugging_face(heads, batch, length, seed) -> None:
    theirs = hugging_face(seed, heads)
    ours = load_gpt2(theirs.state_dict(), heads=heads, dtype=torch.float64)
    tokens = words(batch, length, seed)
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=1e-9, atol=1e-9)


@given(
    st.sampled_from([None, "concat", "static"]),
    st.sampled_from([None, 1, 3]),
    st.integers(1, 8),
    st.integers(0, 2**32),
)
@settings(max_examples=30, deadline=None)
def test_greedy_words_are_those_of_hugging_face(cache, chunk, length, seed) -> None:
    theirs = hugging_face(seed)
    ours = load_gpt2(theirs.state_dict(), heads=4, dtype=torch.float64)
    prompt = words(3, length, seed)
    expected = theirs.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),  # else it takes every word 0 for padding
        max_new_tokens=12,
        do_sample=False,
        pad_token_id=0,
    )
    text = generate(ours, prompt, 12, temperature=0, cache=cache, chunk=chunk if cache else None)
    assert torch.equal(text, expected)


def test_greedy_words_of_a_left_padded_batch_are_those_of_hugging_face() -> None:
    theirs = hugging_face()
    ours = load_gpt2(theirs.state_dict(), heads=4, dtype=torch.float64)
    prompt, padding = words(3, 6), torch.tensor([0, 2, 5])
    real = (torch.arange(6) >= padding[:, None]).long()
    expected = theirs.generate(
        prompt, attention_mask=real, max_new_tokens=10, do_sample=False, pad_token_id=0
    )
    text = generate(ours, prompt, 10, temperature=0, padding=padding, cache="static")
    assert torch.equal(text, expected)


def test_the_loaded_model_owns_its_weights() -> None:
    theirs = hugging_face()
    ours = load_gpt2(theirs.state_dict(), heads=4, dtype=torch.float64)
    with evaluating(ours):
        before = ours(words(1, 5))
        for parameter in theirs.parameters():
            parameter.data.zero_()
        assert torch.equal(ours(words(1, 5)), before)
    assert ours.head.weight is ours.word.weight and not ours.training


def test_weights_of_the_bare_model_and_old_buffers_are_welcome() -> None:
    theirs = hugging_face()
    whole = load_gpt2(theirs.state_dict(), heads=4)
    state = dict(theirs.transformer.state_dict())
    state["h.0.attn.bias"] = torch.ones(1, 1, 32, 32)
    state["h.1.attn.masked_bias"] = torch.tensor(-1e4)
    with evaluating(whole):
        assert torch.equal(load_gpt2(state, heads=4)(words(1, 5)), whole(words(1, 5)))


def test_heads_are_64_wide_unless_said() -> None:
    config = transformers.GPT2Config(vocab_size=5, n_positions=4, n_embd=128, n_layer=1, n_head=2)
    config.bos_token_id = config.eos_token_id = None
    assert load_gpt2(transformers.GPT2LMHeadModel(config).state_dict()).config.heads == 2


def test_what_is_not_a_gpt_2_is_refused() -> None:
    state = hugging_face().state_dict()
    with pytest.raises(ValueError, match=r"expected a matrix wte\.weight"):
        load_gpt2({})
    cut = {name: w for name, w in state.items() if "h.1.ln_2.bias" not in name}
    with pytest.raises(ValueError, match=r"missing \['h\.1\.ln_2\.bias'\], unknown none"):
        load_gpt2(cut, heads=4)
    with pytest.raises(ValueError, match=r"missing none, unknown \['h\.0\.attn\.rotary'\]"):
        load_gpt2({**state, "transformer.h.0.attn.rotary": torch.ones(2)}, heads=4)
    untied = {**state, "lm_head.weight": state["lm_head.weight"] + 1}
    with pytest.raises(ValueError, match="a tied head"):
        load_gpt2(untied, heads=4)
    transposed = {n: w.T if "c_attn.weight" in n else w for n, w in state.items()}
    with pytest.raises(
        ValueError, match=r"c_attn\.weight: expected shape \[96, 32\]; got \[32, 96\]"
    ):
        load_gpt2(transposed, heads=4)
    with pytest.raises(ValueError, match="heads: expected a divisor of width 32; got 5"):
        load_gpt2(state, heads=5)
