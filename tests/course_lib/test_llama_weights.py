"""Claims about weights of others: the model is theirs, or the error says what does not fit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from course_lib.gguf_file import read_gguf
from course_lib.llama_weights import from_gguf, from_hugging_face
from tests.helpers.gguf_models import SMALL, write_model

TOKENS = torch.randint(SMALL.vocab_size, (2, 20), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("stored", ["F32", "F16", "Q8_0", "Q4_1"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_gguf_file_gives_the_logits_of_transformers(stored, tied, tmp_path):
    config = replace(SMALL, tied=tied)
    path = write_model(tmp_path / "m.gguf", config, kind=GGMLQuantizationType[stored])
    ours = from_gguf(read_gguf(path))
    theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name)
    with torch.no_grad():
        torch.testing.assert_close(ours(TOKENS), theirs(TOKENS).logits, rtol=1e-4, atol=1e-4)
    assert not ours.training and not any(p.requires_grad for p in ours.parameters())


@pytest.mark.parametrize("tied", [False, True])
def test_a_hugging_face_model_gives_its_own_logits(tied):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320, hidden_size=48, intermediate_size=80, num_hidden_layers=3,
        num_attention_heads=6, num_key_value_heads=2, head_dim=16, tie_word_embeddings=tied,
        rope_parameters={"rope_type": "default", "rope_theta": 77.0}, initializer_range=0.3,
    )  # fmt: skip
    theirs = LlamaForCausalLM(config).eval()
    ours = from_hugging_face(theirs.state_dict(), config)
    with torch.no_grad():
        torch.testing.assert_close(ours(TOKENS), theirs(TOKENS).logits, rtol=1e-4, atol=1e-4)
        theirs.model.norm.weight.zero_()
        assert ours(TOKENS).any(), "its weights are its own"


def test_rope_factors_slow_the_rotation_down(tmp_path):
    """Llama 3.1 and later: each pair of entries turns by its angle divided by its factor."""
    factors = np.full(SMALL.head_dim // 2, 4, np.float32)
    path = write_model(tmp_path / "m.gguf", extra={"rope_freqs.weight": factors})
    slow, plain = from_gguf(read_gguf(path)), from_gguf(read_gguf(write_model(tmp_path / "p.gguf")))
    every = torch.arange(TOKENS.shape[1])
    assert torch.allclose(slow(TOKENS, positions=4 * every), plain(TOKENS), atol=1e-4)
    assert not torch.allclose(slow(TOKENS), plain(TOKENS), atol=1e-1)


def test_another_architecture_is_refused(tmp_path):
    file = read_gguf(write_model(tmp_path / "m.gguf", architecture="qwen2"))
    with pytest.raises(ValueError, match=r"m\.gguf: expected .* architecture 'llama'; got 'qwen2'"):
        from_gguf(file)


def test_weights_that_a_llama_has_not_are_named(tmp_path):
    bias = {"blk.0.attn_q.bias": np.zeros(64, np.float32)}
    with pytest.raises(ValueError, match=r"missing none, unknown \['blk\.0\.attn_q\.bias'\]"):
        from_gguf(read_gguf(write_model(tmp_path / "bias.gguf", extra=bias)))
    path = write_model(tmp_path / "less.gguf", without="blk.1.ffn_up.weight")
    with pytest.raises(ValueError, match=r"missing \['blk\.1\.ffn_up\.weight'\], unknown none"):
        from_gguf(read_gguf(path))


def test_scaled_rotations_are_refused_not_ignored(tmp_path):
    file = read_gguf(write_model(tmp_path / "m.gguf"))
    file.metadata["llama.rope.scaling.type"] = "yarn"
    with pytest.raises(ValueError, match=r"rope\.scaling\.type 'none'; got 'yarn'"):
        from_gguf(file)
    config = LlamaConfig(rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0})
    with pytest.raises(ValueError, match="rope_type 'default'; got 'linear'"):
        from_hugging_face({}, config)
