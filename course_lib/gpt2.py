"""The weights of GPT-2 in the course's own `GPT`, and its attention sinks (appendix A).

Hugging Face's `GPT2LMHeadModel` and our `GPT` are the same computation under other names, and
with one difference in layout: its `Conv1D` stores matrices as [in, out], `nn.Linear` as
[out, in]. `load_gpt2` translates weights that are there; `from_pretrained` fetches them first
(once, over the network, with the package `transformers`) or reads them from a folder.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from course_lib.gpt import GPT, GPTConfig

#: Names of one block: theirs -> (ours, whether the matrix is transposed).
_BLOCK = {
    "ln_1": ("norm_1", False),
    "attn.c_attn": ("attention.qkv", True),
    "attn.c_proj": ("attention.out", True),
    "ln_2": ("norm_2", False),
    "mlp.c_fc": ("up", True),
    "mlp.c_proj": ("down", True),
}
#: Where Hugging Face keeps the smallest GPT-2: 124 million weights, 12 layers of 12 heads.
GPT2 = "openai-community/gpt2"
#: Settings that our `GPT` has built in: what a configuration calls them, and their value.
_SETTINGS = {
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}
#: Masks that old checkpoints carry along as buffers.
_BUFFERS = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")


class UnavailableError(RuntimeError):
    """The weights cannot be had here; the message says in one line why, and what to do."""


@dataclass(frozen=True)
class Pretrained:
    """A GPT-2 twice, with the tokenizer that cuts texts for it.

    Attributes:
        model: ours, in evaluation mode.
        theirs: the `transformers.GPT2LMHeadModel` that it was copied from.
        tokenizer: of `transformers`.
    """

    model: GPT
    theirs: nn.Module
    tokenizer: Any

    def encode(self, text: str) -> Tensor:
        """The token numbers of a text, int64 [1, T].

        Raises:
            ValueError: if the text has no token, or more than the model can hold.
        """
        numbers = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if not 1 <= len(numbers) <= self.model.config.context:
            raise ValueError(
                f"text: expected 1 to {self.model.config.context} tokens; got {len(numbers)}"
            )
        return torch.tensor([numbers], dtype=torch.long)

    def pieces(self, tokens: Tensor) -> list[str]:
        """What each token stands for, visibly: a leading space is `_`, a line break two signs.

        Args:
            tokens: token numbers, [T] or [1, T].
        """
        found = (self.tokenizer.decode([int(token)]) for token in tokens.reshape(-1))
        return [repr(piece)[1:-1].replace(" ", "_") for piece in found]


def from_pretrained(source: str | Path = GPT2, *, dtype: torch.dtype = torch.float32) -> Pretrained:
    """GPT-2 from Hugging Face's hub (0.5 GB, kept on disk), or from a folder.

    Args:
        source: a name on the hub, or a folder that `save_pretrained` of model and tokenizer wrote.
        dtype: type of the weights and of the computation, theirs too.

    Returns:
        Both models and the tokenizer; the two agree up to rounding.

    Raises:
        UnavailableError: if `transformers` is not installed, or neither the network nor the disk
            has the files.
        ValueError: if what is there is not a GPT-2 with the settings that our `GPT` has built in.
    """
    try:
        transformers = import_module("transformers")  # the course does not require it
    except ImportError:
        raise UnavailableError(
            "the package transformers is not installed (pip install transformers)"
        ) from None
    try:
        found, _ = transformers.GPT2Config.get_config_dict(source)
        if not found:
            raise OSError("it has no config.json")
        config = _checked_config(transformers.GPT2Config, found)
        theirs = transformers.GPT2LMHeadModel.from_pretrained(source, dtype=dtype)
        tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    except OSError as error:
        reason = str(error).strip().split("\n")[0]
        raise UnavailableError(f"{source} could not be loaded: {reason}") from None
    model = load_gpt2(theirs.state_dict(), heads=config.n_head, dtype=dtype)
    return Pretrained(model, theirs.eval(), tokenizer)


def _checked_config(kind: Any, found: Mapping[str, Any]) -> Any:
    """The configuration of a GPT-2, refused if our `GPT` computes something else."""
    if found.get("model_type") != "gpt2":
        raise ValueError(f"source: expected a model of type gpt2; got {found.get('model_type')}")
    config = kind.from_dict(found)
    wanted = {**_SETTINGS, "n_inner": config.n_inner and 4 * config.n_embd}
    for name, value in wanted.items():
        if getattr(config, name) != value:
            raise ValueError(
                f"source: expected {name}={value}, as in GPT-2; got {getattr(config, name)}"
            )
    return config


def sink_share(weights: Sequence[Tensor | NDArray[Any]] | Tensor) -> NDArray[np.float64]:
    """How much attention the first position gets, by layer and head.

    Many trained models give much of it to the first token, whatever that is: an attention sink
    (G. Xiao et al., "Efficient Streaming Language Models with Attention Sinks", 2024,
    arXiv:2309.17453). The share here is the mean weight on key 0 over all queries but the first,
    which under a causal mask has no choice; weights spread evenly over what is visible give the
    number to compare with.

    Args:
        weights: attention weights, one array [H, T, T] or [B, H, T, T] a layer (as `GPT` returns
            them), or all layers stacked; T > 1.

    Returns:
        Shares between 0 and 1, shape [L, H]; the mean over the batch if there is one.

    Raises:
        ValueError: if there is no layer, a shape is another, layers differ in shape, or a row
            does not sum to 1.
    """
    layers = [_as_numpy(layer) for layer in weights]
    if not layers:
        raise ValueError("weights: expected at least one layer; got none")
    for i, layer in enumerate(layers):
        if layer.ndim not in (3, 4) or not layer.shape[-1] == layer.shape[-2] > 1:
            raise ValueError(
                f"weights: expected [H, T, T] or [B, H, T, T], T > 1, a layer; got "
                f"{list(layer.shape)} in layer {i}"
            )
        if layer.shape != layers[0].shape:
            raise ValueError(
                f"weights: expected the shape of layer 0, {list(layers[0].shape)}; got "
                f"{list(layer.shape)} in layer {i}"
            )
        if not np.allclose(layer.sum(axis=-1), 1, atol=1e-2):  # half precision rounds this much
            raise ValueError(
                f"weights: expected rows that sum to 1, as after a softmax; got others in layer {i}"
            )
    first = np.stack([layer[..., 1:, 0].mean(axis=-1) for layer in layers])  # [L, (B,) H]
    return first if first.ndim == 2 else first.mean(axis=1)


def _as_numpy(layer: Any) -> NDArray[np.float64]:
    if isinstance(layer, Tensor):
        layer = layer.detach().cpu().double().numpy()
    return np.asarray(layer, dtype=np.float64)


def load_gpt2(
    state_dict: Mapping[str, Tensor],
    *,
    heads: int,
    dtype: torch.dtype = torch.float32,
) -> GPT:
    """A `GPT` with the weights of a Hugging Face GPT-2.

    Source: A. Radford et al., "Language Models are Unsupervised Multitask Learners", 2019.

    Args:
        state_dict: of a `GPT2LMHeadModel` or a `GPT2Model` with GPT-2's own settings (tanh GELU,
            layer norms with epsilon 1e-5, scores divided by sqrt(d_k)).
        heads: number of attention heads, which no shape tells: 12, 16, 20 and 25 in the four
            published GPT-2s.
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
    model.head.weight = model.token_embedding.weight
    return model.eval()


def _put(model: GPT, ours: str, weight: Tensor, theirs: str) -> None:
    """Make a copy of `weight` the parameter of that name.

    Matrices [out, in] lie in memory as [in, out], under a transposed view: processors multiply
    that with a single word faster, and decoding does little else (`benchmarks/kv_cache.py`). The
    positions are no factor of a product; one row of them is read at a time.
    """
    module, _, leaf = ours.rpartition(".")
    old = model.get_parameter(ours)
    if weight.shape != old.shape:
        raise ValueError(f"{theirs}: expected shape {list(old.shape)}; got {list(weight.shape)}")
    copied = torch.empty_like(old)  # row by row
    if weight.ndim == 2 and module != "position_embedding":
        copied = torch.empty(weight.shape[::-1], dtype=old.dtype).T
    copied.copy_(weight)
    setattr(model.get_submodule(module), leaf, nn.Parameter(copied))


def _config(theirs: Mapping[str, Tensor], heads: int) -> GPTConfig:
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
        heads=heads,
        width=width,
        tied=True,
    )


def _names(layers: int) -> dict[str, tuple[str, bool]]:
    """Their name of every weight -> our name, and whether it is transposed."""
    names = {
        "wte.weight": ("token_embedding.weight", False),
        "wpe.weight": ("position_embedding.weight", False),
        "ln_f.weight": ("norm.weight", False),
        "ln_f.bias": ("norm.bias", False),
    }
    for i in range(layers):
        for their, (our, transposed) in _BLOCK.items():
            names[f"h.{i}.{their}.weight"] = (f"blocks.{i}.{our}.weight", transposed)
            names[f"h.{i}.{their}.bias"] = (f"blocks.{i}.{our}.bias", False)
    return names
