"""The weights of GPT-2 in the course's own `GPT` (chapter 5: a reader with a network can run it).

Hugging Face's `GPT2LMHeadModel` and our `GPT` are the same computation under other names, and
with one difference in layout: its `Conv1D` stores matrices as [in, out], `nn.Linear` as
[out, in].

    from transformers import GPT2LMHeadModel          # needs a network, once
    hugging_face = GPT2LMHeadModel.from_pretrained("gpt2")
    model = load_gpt2(hugging_face.state_dict())
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from course_lib.gpt import GPT, GPTConfig

#: Names of one block: theirs -> (ours, whether the matrix is transposed).
_BLOCK = {
    "ln_1": ("norm_1", False),
    "attn.c_attn": ("attention.qkv", True),
    "attn.c_proj": ("attention.out", True),
    "ln_2": ("norm_2", False),
    "mlp.c_fc": ("mlp.0", True),
    "mlp.c_proj": ("mlp.2", True),
}
#: Masks that old checkpoints carry along as buffers.
_BUFFERS = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")


def load_gpt2(
    state_dict: Mapping[str, Tensor],
    *,
    heads: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> GPT:
    """A `GPT` with the weights of a Hugging Face GPT-2.

    Source: A. Radford et al., "Language Models are Unsupervised Multitask Learners", 2019.

    Args:
        state_dict: of a `GPT2LMHeadModel` or a `GPT2Model` with GPT-2's own settings (tanh GELU,
            layer norms with epsilon 1e-5, scores divided by sqrt(d_k)).
        heads: number of attention heads, which no shape tells; width / 64 if not given, as in
            every published GPT-2.
        dtype: type of weights and computation.

    Returns:
        The model, in evaluation mode, with weights of its own.

    Raises:
        ValueError: if a weight is missing, unknown, or of the wrong shape; if `heads` does not
            divide the width.
    """
    theirs = {name.removeprefix("transformer."): w for name, w in state_dict.items()}
    theirs = {name: w for name, w in theirs.items() if not _BUFFERS.fullmatch(name)}
    config = _config(theirs, heads)
    names = _names(config.layers)
    head = theirs.get("lm_head.weight")
    if head is not None and not torch.equal(head, theirs["wte.weight"]):
        raise ValueError("lm_head.weight: expected the word embeddings (a tied head); got others")
    missing = sorted(names.keys() - theirs.keys())
    unknown = sorted(theirs.keys() - names.keys() - {"lm_head.weight"})
    if missing or unknown:
        raise ValueError(
            f"state_dict: expected the weights of a GPT-2; missing {missing[:3] or 'none'}, "
            f"unknown {unknown[:3] or 'none'}"
        )
    model = GPT(config, None, dtype=dtype)
    for name, (ours, transposed) in names.items():
        weight = theirs[name].detach().T if transposed else theirs[name].detach()
        _put(model, ours, weight, name)
    model.head.weight = model.word.weight
    return model.eval()


def _put(model: GPT, ours: str, weight: Tensor, theirs: str) -> None:
    """Make a copy of `weight` the parameter of that name.

    Matrices [out, in] lie in memory as [in, out], under a transposed view: processors multiply
    that with a single word faster, and decoding does little else (`benchmarks/kv_cache.py`).
    """
    module, _, leaf = ours.rpartition(".")
    old = model.get_parameter(ours)
    if weight.shape != old.shape:
        raise ValueError(f"{theirs}: expected shape {list(old.shape)}; got {list(weight.shape)}")
    copied = torch.empty(weight.shape[::-1], dtype=old.dtype)  # reversed: [out] or [in, out]
    copied = copied.permute(*range(weight.ndim)[::-1]).copy_(weight)
    setattr(model.get_submodule(module), leaf, nn.Parameter(copied))


def _config(theirs: Mapping[str, Tensor], heads: int | None) -> GPTConfig:
    """The sizes, read off the shapes."""
    for name in ("wte.weight", "wpe.weight"):
        if name not in theirs or theirs[name].ndim != 2:
            raise ValueError(f"state_dict: expected a matrix {name}, as GPT-2 has; got none")
    vocab_size, width = theirs["wte.weight"].shape
    layers = {int(match[1]) for match in (re.match(r"h\.(\d+)\.", n) for n in theirs) if match}
    return GPTConfig(
        vocab_size=vocab_size,
        context=theirs["wpe.weight"].shape[0],
        layers=max(layers, default=-1) + 1,
        heads=max(1, width // 64) if heads is None else heads,
        width=width,
        tied=True,
    )


def _names(layers: int) -> dict[str, tuple[str, bool]]:
    """Their name of every weight -> our name, and whether it is transposed."""
    names = {
        "wte.weight": ("word.weight", False),
        "wpe.weight": ("position.weight", False),
        "ln_f.weight": ("norm.weight", False),
        "ln_f.bias": ("norm.bias", False),
    }
    for i in range(layers):
        for their, (our, transposed) in _BLOCK.items():
            names[f"h.{i}.{their}.weight"] = (f"blocks.{i}.{our}.weight", transposed)
            names[f"h.{i}.{their}.bias"] = (f"blocks.{i}.{our}.bias", False)
    return names
