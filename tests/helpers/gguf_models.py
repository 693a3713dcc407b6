"""Small Llamas with random weights, written as GGUF files (no network, no download)."""

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, quantize

from course_lib.llama import LlamaConfig

#: Sizes of a Llama with shared keys, whose rows hold whole blocks of every quantised type.
SMALL = LlamaConfig(
    vocab_size=320, context=64, layers=2, heads=4, kv_heads=2, head_dim=16, width=64, hidden=96,
    rope_base=500.0, epsilon=1e-6,
)  # fmt: skip


def byte_level_tokens() -> tuple[list[str], list[str]]:
    """A byte-level vocabulary with some merges: 256 bytes, then pieces of "the cat sat"."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    merges = ["t h", "th e", "Ġ the", "Ġ t", "a t", "c at", "Ġ cat", "s at", "Ġ sat", "1 2"]
    return [*bytes_to_unicode().values(), *(m.replace(" ", "") for m in merges)], merges


def write_model(
    path: Path,
    config: LlamaConfig = SMALL,
    *,
    kind: GGMLQuantizationType = GGMLQuantizationType.F32,
    architecture: str = "llama",
    pre: str = "gpt-2",
    extra: dict[str, np.ndarray] | None = None,
    without: str | None = None,
    seed: int = 0,
) -> Path:
    """Write a model with random weights and a byte-level vocabulary.

    Args:
        path: where.
        config: its sizes.
        kind: how its matrices are stored.
        architecture: what it says that it is.
        pre: how its vocabulary says that texts are cut.
        extra: more weights.
        without: a weight to leave out.
        seed: of the weights.

    Returns:
        `path`.
    """
    writer = GGUFWriter(path, architecture)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.width)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.hidden)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.epsilon)
    writer.add_rope_freq_base(config.rope_base)
    tokens, merges = byte_level_tokens()
    specials = ["<|end|>", "<|user|>"]
    tokens += specials + [f"<|{n}|>" for n in range(config.vocab_size - len(tokens) - 2)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if t.startswith("<|") else 1 for t in tokens])
    writer.add_token_merges(merges)
    writer.add_eos_token_id(tokens.index("<|end|>"))
    for name, value in {**_weights(config, seed), **(extra or {})}.items():
        if name == without:
            continue
        if value.ndim == 1 or kind == GGMLQuantizationType.F32:
            writer.add_tensor(name, value)
        else:
            writer.add_tensor(name, quantize(value, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _weights(config: LlamaConfig, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    c, heads, shared = (
        config.width,
        config.heads * config.head_dim,
        config.kv_heads * config.head_dim,
    )
    shapes = {"token_embd": (config.vocab_size, c), "output_norm": (c,)}
    if not config.tied:
        shapes["output"] = (config.vocab_size, c)
    for i in range(config.layers):
        shapes |= {
            f"blk.{i}.attn_norm": (c,), f"blk.{i}.ffn_norm": (c,),
            f"blk.{i}.attn_q": (heads, c), f"blk.{i}.attn_k": (shared, c),
            f"blk.{i}.attn_v": (shared, c), f"blk.{i}.attn_output": (c, heads),
            f"blk.{i}.ffn_gate": (config.hidden, c), f"blk.{i}.ffn_up": (config.hidden, c),
            f"blk.{i}.ffn_down": (c, config.hidden),
        }  # fmt: skip
    return {
        f"{name}.weight": (0.3 * rng.normal(size=shape) + (len(shape) == 1)).astype(np.float32)
        for name, shape in shapes.items()
    }
