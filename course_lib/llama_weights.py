"""A `Llama` with the weights of others: of a GGUF file, or of Hugging Face's class.

All three are the same computation under other names. One thing differs in layout: a GGUF file keeps
Llama's own order of the rotating pairs (see `_halves`).
"""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from course_lib.gguf_file import GGUFFile
from course_lib.llama import Llama, LlamaConfig

#: Our names -> theirs, for what stands once and for what stands in every block.
_GGUF = (
    {"token_embedding": "token_embd", "norm": "output_norm", "head": "output"},
    "blk.",
    {
        "norm_1": "attn_norm",
        "attention.q": "attn_q",
        "attention.k": "attn_k",
        "attention.v": "attn_v",
        "attention.out": "attn_output",
        "norm_2": "ffn_norm",
        "gate": "ffn_gate",
        "up": "ffn_up",
        "down": "ffn_down",
    },
)
_HUGGING_FACE = (
    {"token_embedding": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"},
    "model.layers.",
    {
        "norm_1": "input_layernorm",
        "attention.q": "self_attn.q_proj",
        "attention.k": "self_attn.k_proj",
        "attention.v": "self_attn.v_proj",
        "attention.out": "self_attn.o_proj",
        "norm_2": "post_attention_layernorm",
        "gate": "mlp.gate_proj",
        "up": "mlp.up_proj",
        "down": "mlp.down_proj",
    },
)


def from_gguf(file: GGUFFile, dtype: torch.dtype = torch.float32) -> Llama:
    """The model in a GGUF file, de-quantised.

    Args:
        file: as from `read_gguf`.
        dtype: type of weights and computation.

    Returns:
        The model, in evaluation mode and without gradients.

    Raises:
        ValueError: if it is no Llama, or one with parts that `Llama` does not have.
    """
    config = _config(file)
    names = _names(config, *_GGUF)
    _check(file.tensors, names.values(), {"rope_freqs.weight"}, str(file.path))
    weights = {}
    for ours, theirs in names.items():
        weight = file.weight(theirs, dtype)
        turns = ours.endswith(("attention.q.weight", "attention.k.weight"))
        weights[ours] = _halves(weight, config.head_dim) if turns else weight
    if "rope_freqs.weight" in file.tensors:  # Llama 3.1 and later
        weights["rope_factors"] = file.weight("rope_freqs.weight")
    return _assemble(config, weights)


def from_hugging_face(
    state: Mapping[str, Tensor], config: Any, dtype: torch.dtype = torch.float32
) -> Llama:
    """The model with the weights of a `transformers.LlamaForCausalLM`.

    Args:
        state: its `state_dict()`.
        config: its `transformers.LlamaConfig`.
        dtype: type of weights and computation.

    Returns:
        The model, in evaluation mode and without gradients, with weights of its own.

    Raises:
        ValueError: if its rotary positions are scaled, or a weight is missing or unknown.
    """
    rope = config.rope_parameters
    if rope.get("rope_type", "default") != "default":
        raise ValueError(f"config: expected rope_type 'default'; got {rope['rope_type']!r}")
    sizes = LlamaConfig(
        vocab_size=config.vocab_size,
        context=config.max_position_embeddings,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        width=config.hidden_size,
        hidden=config.intermediate_size,
        rope_base=rope["rope_theta"],
        epsilon=config.rms_norm_eps,
        tied=config.tie_word_embeddings,
    )
    names = _names(sizes, *_HUGGING_FACE)
    _check(state, names.values(), {"lm_head.weight"} if sizes.tied else set(), "state")
    return _assemble(sizes, {o: state[t].detach().to(dtype, copy=True) for o, t in names.items()})


def _config(file: GGUFFile) -> LlamaConfig:
    """The sizes that a file states."""
    kind = file.metadata.get("general.architecture")
    if kind != "llama":
        raise ValueError(f"{file.path}: expected a model of architecture 'llama'; got {kind!r}")
    about = {name.removeprefix("llama."): value for name, value in file.metadata.items()}
    scaling = about.get("rope.scaling.type", "none")
    if scaling != "none":
        raise ValueError(f"{file.path}: expected rope.scaling.type 'none'; got {scaling!r}")
    heads, width = about["attention.head_count"], about["embedding_length"]
    return LlamaConfig(
        vocab_size=len(about["tokenizer.ggml.tokens"]),
        context=about["context_length"],
        layers=about["block_count"],
        heads=heads,
        kv_heads=about.get("attention.head_count_kv", heads),
        head_dim=about.get("attention.key_length", width // heads),
        width=width,
        hidden=about["feed_forward_length"],
        rope_base=about.get("rope.freq_base", 10_000.0),
        epsilon=about["attention.layer_norm_rms_epsilon"],
        tied="output.weight" not in file.tensors,
    )


def _names(
    config: LlamaConfig, once: Mapping[str, str], blocks: str, block: Mapping[str, str]
) -> dict[str, str]:
    """Our name of every weight -> theirs."""
    names = {f"{ours}.weight": f"{theirs}.weight" for ours, theirs in once.items()}
    if config.tied:
        del names["head.weight"]
    for i in range(config.layers):
        for ours, theirs in block.items():
            names[f"blocks.{i}.{ours}.weight"] = f"{blocks}{i}.{theirs}.weight"
    return names


def _check(found: Collection[str], wanted: Collection[str], welcome: set[str], where: str) -> None:
    """Refuse weights that are not those of a Llama: biases, experts, another number of layers."""
    missing = sorted(set(wanted) - set(found))
    unknown = sorted(set(found) - set(wanted) - welcome)
    if missing or unknown:
        raise ValueError(
            f"{where}: expected the weights of a Llama; missing {missing[:3] or 'none'}, "
            f"unknown {unknown[:3] or 'none'}"
        )


def _halves(weight: Tensor, head_dim: int) -> Tensor:
    """Rows of a query or key matrix in the order that `rotate` wants.

    In Llama's own order the entries 2i and 2i + 1 of a head turn together; for `rotate`, as for
    Hugging Face, i and i + D / 2 do.
    """
    return weight.unflatten(0, (-1, head_dim // 2, 2)).transpose(1, 2).flatten(0, 2)


def _assemble(config: LlamaConfig, weights: dict[str, Tensor]) -> Llama:
    """A model made of these tensors, without a second copy of any."""
    model = Llama(config)
    weights.setdefault("rope_factors", torch.ones(config.head_dim // 2))
    model.load_state_dict(weights, assign=True)
    return model.requires_grad_(False).eval()
