"""A small GPT, to be read in one sitting (chapter 1 trains it; chapters 4 to 6 use all of it).

The layout is that of GPT-2 (A. Radford et al., "Language Models are Unsupervised Multitask
Learners", 2019): learned positions, normalisation before each sub-layer, GELU. Read from the
bottom up: `GPT` embeds, calls the blocks, and turns the last state into logits; a `Block` is
attention and a small network, each added to its input; `SelfAttention` is the only place where
one position learns anything about another, so it is the only place that needs the mask, and the
only one that has a use for a cache.

What it shares with Llama, `decoder` says: where words stand, what they may see, and caches. Rotary
positions are in `rotary`, the kernels of attention in `attention_kernels`, the first weights in
`gpt_init`.

Shapes in comments: B sequences, T new positions, S positions that they are compared with (the
same T if there is no cache), C = width, H heads, G = heads that have keys and values of their own
(G = H unless heads share them), D = C / H, V words.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.attention_kernels import Attend, five_steps
from course_lib.cache import Cache
from course_lib.decoder import Decoder
from course_lib.decoder_checks import look_up
from course_lib.gpt_checks import check_config
from course_lib.gpt_init import initialise
from course_lib.masks import Mask, causal, check_mask
from course_lib.rotary import frequencies, rotate, rotation
from course_lib.validate import check_choice

#: When the mask is applied: the rule of the course, and two ways to break it (chapter 1).
Masking = Literal["always", "never", "training"]
#: How a model knows where a word stands.
PositionKind = Literal["learned", "rotary"]


@dataclass(frozen=True)
class GPTConfig:
    """Sizes of a `GPT`.

    Attributes:
        vocab_size: number of words V.
        context: most positions the model can hold.
        layers: number of blocks.
        heads: attention heads a block; must divide `width`.
        width: numbers a position, C.
        kv_heads: heads that have keys and values of their own, a divisor of `heads`. Fewer than
            `heads` is grouped-query attention (J. Ainslie et al., "GQA", 2023,
            arXiv:2305.13245), 1 is multi-query attention; as many as `heads` if not given.
        positions: "learned" adds a learned vector for each position; "rotary" turns queries and
            keys by an angle proportional to it (see `rotary`) and needs an even C / H.
        tied: use the token embeddings as the output matrix too, as GPT-2 does.
    """

    vocab_size: int
    context: int
    layers: int = 2
    heads: int = 4
    width: int = 48
    kv_heads: int = None  # type: ignore[assignment]
    positions: PositionKind = "learned"
    tied: bool = False

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be built."""
        if self.kv_heads is None:
            object.__setattr__(self, "kv_heads", self.heads)
        check_config(self, get_args(PositionKind))

    @property
    def head_dim(self) -> int:
        """D: numbers a head."""
        return self.width // self.heads


class SelfAttention(nn.Module):
    """Multi-head self-attention under any mask, with or without a cache.

    Source: A. Vaswani et al., "Attention Is All You Need", 2017, section 3.2.2.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        self.qkv = nn.Linear(config.width, (self.heads + 2 * self.kv_heads) * self.head_dim)
        self.out = nn.Linear(config.width, config.width)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        rotation: tuple[Tensor, Tensor] | None = None,
        cache: Cache | None = None,
        attend: Attend = five_steps,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend.

        Args:
            x: states, shape [B, T, C].
            mask: bool, True = may attend, broadcastable to [B, H, T, S]; None = no mask.
            rotation: cosines and sines for `rotate`, or None.
            cache: keys and values of earlier positions; the new ones are written to it, and
                `GPT.forward` commits them.
            attend: how: in five steps, which return the weights, or by a fused kernel.

        Returns:
            New states [B, T, C] and attention weights [B, H, T, S], or None for the weights.
        """
        batch, new, _ = x.shape
        qkv = self.qkv(x).view(batch, new, -1, self.head_dim).transpose(1, 2)  # [B, H + 2G, T, D]
        q, k, v = qkv.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        if rotation is not None:
            q, k = rotate(q, *rotation), rotate(k, *rotation)
        if cache is not None:
            k, v = cache.write(k, v)  # [B, G, S, D]
        y, weights = attend(q, k, v, mask)  # [B, H, T, D], [B, H, T, S]
        return self.out(y.transpose(1, 2).flatten(2)), weights  # [B, T, H, D] -> [B, T, C]


class Block(nn.Module):
    """Attention between positions, then a small network on each position by itself."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(config.width)
        self.attention = SelfAttention(config)
        self.norm_2 = nn.LayerNorm(config.width)
        self.up = nn.Linear(config.width, 4 * config.width)
        self.down = nn.Linear(4 * config.width, config.width)

    def forward(self, x: Tensor, *how: object) -> tuple[Tensor, Tensor | None]:
        """As `SelfAttention.forward`: states [B, T, C] to new states, and attention weights."""
        y, weights = self.attention(self.norm_1(x), *how)
        x = x + y
        wide = F.gelu(self.up(self.norm_2(x)), approximate="tanh")  # [B, T, 4C]
        return x + self.down(wide), weights


class GPT(Decoder):
    """A decoder-only language model: words in, logits of each next word out.

    Args:
        config: the sizes.
        rng: source of the first weights (see `gpt_init`); None leaves them for a loader to fill in.
        mask: which positions may attend to which; any rule of `course_lib.masks`, `causal()` if
            not given.
        masking: when to apply it: "always", "never" (the cheater of chapter 1) or only in
            "training" mode (a bug seen in the wild).
        dtype: type of weights and computation.

    Raises:
        ValueError: if `masking` is none of the three.
    """

    def __init__(
        self,
        config: GPTConfig,
        rng: np.random.Generator | None,
        *,
        mask: Mask | None = None,
        masking: Masking = "always",
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        check_choice("masking", masking, get_args(Masking))
        self.config, self.masking = config, masking
        self.mask = causal() if mask is None else check_mask("mask", mask)
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        if config.positions == "learned":
            self.position_embedding = nn.Embedding(config.context, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.vocab_size, bias=False)
        if config.tied:
            self.head.weight = self.token_embedding.weight
        self.to(dtype)
        if rng is not None:
            initialise(self, config.layers, rng)

    def forward(
        self,
        tokens: Tensor,
        *,
        cache: Sequence[Cache] | None = None,
        start: int | None = None,
        padding: Tensor | None = None,
        positions: Tensor | None = None,
        attend: Attend | None = None,
        last_only: bool = False,
        return_weights: bool = False,
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Predict each next word.

        Args:
            tokens: word numbers, int64, shape [B, T], 1 <= T <= context. With a cache, the new
                words only; they follow those that the cache has seen.
            cache: one `Cache` a layer (`new_cache` makes them); the new keys and values are
                appended to it.
            start: position of the first new word; checked against the cache if given, as a guard
                against a chunk that was skipped or fed twice.
            padding: how many slots at the left of each sequence are padding, integer [B]. The
                first chunk of a text needs it, the cache remembers it. Nobody attends to padding,
                and the first real word stands at *logical* position 0. What the model says at
                padded slots means nothing.
            positions: logical positions of the words, integer [T] or [B, T], for the embeddings
                or the rotation; slots less padding if not given. The mask goes by slots.
            attend: how to attend, for those with a kernel, or a mistake, of their own.
            last_only: logits of the last position only, which is all that generation needs.
            return_weights: also return what each head attended to.

        Returns:
            Logits, shape [B, T, V] ([B, 1, V] with `last_only`): row t is about word t + 1. With
            `return_weights` a pair of them and a list of weights [B, H, T, S], one a layer.

        Raises:
            TypeError: if tokens are not integers, or the cache is not one.
            ValueError: if a shape, word or device is wrong, the text too long, `start` does not
                follow, the rule has data for another number of sequences, the padding is not that
                of earlier chunks, or the mask makes the cache useless: its past may not see the
                new words, and the new words may not see what it has dropped. The cache is then as
                it was, as it is if the reader presses stop.
        """
        attend = five_steps if attend is None and return_weights else attend
        at = self.place(
            tokens, cache, start=start, padding=padding, positions=positions, attend=attend
        )
        angles = None
        if self.config.positions == "rotary":
            frequency = frequencies(self.config.head_dim, device=tokens.device)
            angles = rotation(at.positions, frequency, self.head.weight.dtype)
        x = self.embed(tokens, at.positions)  # [B, T, C]
        all_weights = []
        for i, block in enumerate(self.blocks):
            layer = None if cache is None else cache[i]
            x, weights = block(x, at.mask, angles, layer, at.attend)  # [B, T, C], [B, H, T, S]
            all_weights.append(weights)
        logits = self.head(self.norm(x[:, -1:] if last_only else x))  # [B, T, V]
        self.commit(cache, tokens.shape[1], at.padding)
        return (logits, all_weights) if return_weights else logits

    def embed(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        """What a word is plus (if positions are learned) where it is: [B, T] -> [B, T, C].

        Args:
            tokens: word numbers, shape [B, T].
            positions: logical positions, shape [T] or [B, T]; 0..T-1 if not given.

        Raises:
            ValueError: if a word is not in the vocabulary, or a position beyond the context.
        """
        x = look_up(self.token_embedding, tokens, "tokens: expected word numbers")
        if self.config.positions != "learned":
            return x
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device)
        return x + look_up(self.position_embedding, positions, "positions: expected numbers")

    @property
    def rule(self) -> Mask | None:
        """The mask in force now, or None."""
        applied = self.masking == "always" or (self.masking == "training" and self.training)
        return self.mask if applied else None

    def with_masking(self, masking: Masking) -> "GPT":
        """A copy with the same weights that applies the mask at other times."""
        check_choice("masking", masking, get_args(Masking))
        twin = copy.deepcopy(self)
        twin.masking = masking
        return twin


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients, for the length of a `with` block."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
