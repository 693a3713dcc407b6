"""Llama, to be read in one sitting: what today's open language models are made of.

The reading order is that of `gpt.py`, from the bottom up: `Llama` embeds, calls the blocks and
turns the last state into logits; a `Block` is attention and a small network; `SelfAttention` is the
only place where one position learns anything about another. Five things differ from GPT-2:
normalisation by size alone (RMSNorm), positions by rotation, heads that share keys, a gated network
(SwiGLU), and no biases.

Source: H. Touvron et al., "LLaMA", 2023, arXiv:2302.13971; "Llama 2", 2023, arXiv:2307.09288.

Shapes in comments: B sequences, T new positions, S positions that they are compared with,
C = width, H query heads, G = key heads, D = numbers a head, V words.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.attention_kernels import Attend, five_steps
from course_lib.cache import Cache
from course_lib.decoder import Decoder
from course_lib.decoder_checks import look_up
from course_lib.masks import Mask, causal
from course_lib.rotary import frequencies, rotate, rotation


@dataclass(frozen=True)
class LlamaConfig:
    """Sizes of a `Llama`.

    Attributes:
        vocab_size: number of tokens V.
        context: most positions that it was trained for.
        layers: number of blocks.
        heads: query heads H a block.
        kv_heads: heads G that have keys and values of their own; divides `heads`.
        head_dim: numbers a head, D.
        width: numbers a position, C.
        hidden: numbers a position inside the gated network.
        rope_base: the slowest pair turns once in about 2 pi `rope_base` positions.
        epsilon: added to a mean square before its root is divided by.
        tied: use the token embeddings as the output matrix too.
    """

    vocab_size: int
    context: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    width: int
    hidden: int
    rope_base: float = 10_000.0
    epsilon: float = 1e-5
    tied: bool = False


class Matrix(nn.Linear):
    """x @ weight.T, without a bias, and without values until a loader fills them in."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out, bias=False)

    def reset_parameters(self) -> None:
        """Leave the weights as they are: random ones would be overwritten."""


class SelfAttention(nn.Module):
    """Attention in which H / G query heads share a key head (J. Ainslie et al., "GQA", 2023)."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.q = Matrix(config.width, config.heads * config.head_dim)
        self.k = Matrix(config.width, config.kv_heads * config.head_dim)
        self.v = Matrix(config.width, config.kv_heads * config.head_dim)
        self.out = Matrix(config.heads * config.head_dim, config.width)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        rotation: tuple[Tensor, Tensor],
        cache: Cache | None,
        attend: Attend,
    ) -> tuple[Tensor, Tensor | None]:
        """States [B, T, C] to new states, and the weights [B, H, T, S] if `attend` returns them."""
        q, k, v = (self._split(project(x)) for project in (self.q, self.k, self.v))
        q, k = rotate(q, *rotation), rotate(k, *rotation)  # [B, H, T, D], [B, G, T, D]
        if cache is not None:
            k, v = cache.write(k, v)  # [B, G, S, D]: keys are kept as they were rotated
        y, weights = attend(q, k, v, mask)  # [B, H, T, D]
        return self.out(y.transpose(1, 2).flatten(2)), weights

    def _split(self, x: Tensor) -> Tensor:
        """[B, T, heads * D] -> [B, heads, T, D]."""
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class Block(nn.Module):
    """Attention between positions, then a gated network on each position by itself.

    RMSNorm divides a state by the root of its mean square (B. Zhang, R. Sennrich, 2019,
    arXiv:1910.07467); SwiGLU multiplies one layer by the SiLU of another (N. Shazeer, 2020,
    arXiv:2002.05202).
    """

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.norm_1 = nn.RMSNorm(config.width, config.epsilon)
        self.attention = SelfAttention(config)
        self.norm_2 = nn.RMSNorm(config.width, config.epsilon)
        self.gate = Matrix(config.width, config.hidden)
        self.up = Matrix(config.width, config.hidden)
        self.down = Matrix(config.hidden, config.width)

    def forward(self, x: Tensor, *how: Any) -> tuple[Tensor, Tensor | None]:
        """As `SelfAttention.forward`."""
        y, weights = self.attention(self.norm_1(x), *how)
        x = x + y
        h = self.norm_2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h)), weights


class Llama(Decoder):
    """A decoder-only language model: tokens in, logits of each next token out.

    Args:
        config: the sizes.
        mask: which positions may attend to which, any rule of `course_lib.masks`; `causal()` if
            not given.

    Attributes:
        config, mask: as given.
        rope_factors: slow-downs of each rotating pair, [D / 2]; ones except in Llama 3.1 and later.
    """

    def __init__(self, config: LlamaConfig, mask: Mask | None = None) -> None:
        super().__init__()
        self.config = config
        self.mask = causal() if mask is None else mask
        v, c = config.vocab_size, config.width
        self.token_embedding = nn.Embedding(v, c, _weight=torch.empty(v, c))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width, config.epsilon)
        self.head = None if config.tied else Matrix(c, v)
        self.rope_factors: Tensor
        self.register_buffer("rope_factors", torch.ones(config.head_dim // 2))

    def forward(
        self,
        tokens: Tensor,
        *,
        cache: Sequence[Cache] | None = None,
        padding: Tensor | None = None,
        positions: Tensor | None = None,
        attend: Attend | None = None,
        last_only: bool = False,
        return_weights: bool = False,
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Predict each next token.

        Args:
            tokens: token numbers, int64, shape [B, T]. With a cache, the new ones only.
            cache: one `Cache` a layer (`new_cache` makes them); new keys and values are added.
            padding: how many slots at the left of each sequence are padding, integer [B].
            positions: where the tokens stand for the rotation, [T] or [B, T]; slots minus padding
                if not given. The mask does not look at it: it goes by slots.
            attend: what to do in place of the five steps of attention, for those who want to see
                what a mistake in them does.
            last_only: logits of the last position only, which is all that generation needs.
            return_weights: also return what each head attended to.

        Returns:
            Logits, shape [B, T, V] ([B, 1, V] with `last_only`); with `return_weights` a pair of
            them and a list of weights [B, H, T, S], one a layer.
        """
        attend = five_steps if attend is None and return_weights else attend
        at = self.place(tokens, cache, padding=padding, positions=positions, attend=attend)
        frequency = frequencies(self.config.head_dim, self.config.rope_base, tokens.device)
        dtype = self.token_embedding.weight.dtype
        angles = rotation(at.positions, frequency / self.rope_factors, dtype)
        x = look_up(self.token_embedding, tokens, "tokens: expected token numbers")  # [B, T, C]
        all_weights = []
        for i, block in enumerate(self.blocks):
            layer = None if cache is None else cache[i]
            x, weights = block(x, at.mask, angles, layer, at.attend)
            all_weights.append(weights)
        x = self.norm(x[:, -1:] if last_only else x)
        logits = F.linear(x, (self.head or self.token_embedding).weight)  # [B, T, V]
        self.commit(cache, tokens.shape[1], at.padding)
        return (logits, all_weights) if return_weights else logits

    def with_mask(self, mask: Mask) -> "Llama":
        """The same model, weights shared, under another mask."""
        twin = copy.copy(self)
        twin.mask = mask
        return twin
