"""A small GPT, to be read in one sitting (chapter 1 trains it; chapters 4 to 6 use all of it).

The layout is that of GPT-2 (A. Radford et al., "Language Models are Unsupervised Multitask
Learners", 2019): learned positions, normalisation before each sub-layer, GELU. Read from the
bottom up: `GPT` embeds, calls the blocks, and turns the last state into logits; a `Block` is
attention and a small network, each added to its input; `SelfAttention` is the only place where
one position learns anything about another, so it is the only place that needs the mask, and the
only one that has a use for a cache.

Shapes in comments: B sequences, T new positions, S positions that they are compared with (the
same T if there is no cache), C = width, H heads, G = key heads (G = H unless heads share keys),
D = C / H, V words.
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

from course_lib.attention import attention
from course_lib.cache import Cache, CacheKind, new_caches
from course_lib.gpt_checks import check_chunk
from course_lib.masks import Mask, causal, not_padding, sliding_window
from course_lib.masks.rule import Positions

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
            arXiv:2305.13245), 1 is multi-query attention; None means as many as `heads`.
        positions: "learned" adds a learned vector for each position; "rotary" turns queries and
            keys by an angle proportional to it (see `rotate`) and needs an even C / H.
        tied: use the word embeddings as the output matrix too, as GPT-2 does.
    """

    vocab_size: int
    context: int
    layers: int = 2
    heads: int = 4
    width: int = 48
    kv_heads: int | None = None
    positions: PositionKind = "learned"
    tied: bool = False

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be built."""
        for name in ("vocab_size", "context", "layers", "heads", "width", "kv_heads"):
            value = getattr(self, name)
            if name == "kv_heads" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name}: expected an integer; got {value!r}")
            if value < 1:
                raise ValueError(f"{name}: expected at least 1; got {value}")
        if self.width % self.heads:
            raise ValueError(f"heads: expected a divisor of width {self.width}; got {self.heads}")
        if self.heads % self.key_heads:
            raise ValueError(
                f"kv_heads: expected a divisor of heads {self.heads}; got {self.kv_heads}"
            )
        if self.positions not in get_args(PositionKind):
            raise ValueError(
                f"positions: expected one of {get_args(PositionKind)}; got {self.positions!r}"
            )
        if self.positions == "rotary" and self.head_dim % 2:
            raise ValueError(
                f"positions: rotary ones expect an even width / heads; got {self.head_dim}"
            )

    @property
    def key_heads(self) -> int:
        """G: heads with keys and values of their own."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def head_dim(self) -> int:
        """D: numbers a head."""
        return self.width // self.heads


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm`, one Python call nearer to its kernel.

    While a model decodes, the weights of each layer empty the processor's caches, and then a
    call of Python costs more time than this kernel needs for one word.
    Source: J. L. Ba et al., "Layer Normalization", 2016, arXiv:1607.06450.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Each state of [..., C] by itself: mean 0, variance 1, then scaled and shifted."""
        return torch.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class SelfAttention(nn.Module):
    """Multi-head self-attention under any mask, with or without a cache.

    Source: A. Vaswani et al., "Attention Is All You Need", 2017, section 3.2.2.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.heads, self.key_heads = config.heads, config.key_heads
        self.head_dim = config.head_dim
        self.qkv = nn.Linear(config.width, (self.heads + 2 * self.key_heads) * self.head_dim)
        self.out = nn.Linear(config.width, config.width)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        *,
        is_causal: bool = False,
        rotation: tuple[Tensor, Tensor] | None = None,
        cache: Cache | None = None,
        need_weights: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend.

        Args:
            x: states, shape [B, T, C].
            mask: bool, True = may attend, broadcastable to [B, H, T, S]; None = no mask.
            is_causal: promise that `mask` is the causal one and S = T, so that a fused kernel
                can skip what is blocked.
            rotation: cosines and sines for `rotate`, or None.
            cache: keys and values of earlier positions; the new ones are written to it, and
                `GPT.forward` commits them.
            need_weights: also return the weights, which a fused kernel never stores.

        Returns:
            New states [B, T, C] and attention weights [B, H, T, S], or None for the weights.
        """
        q, k, v = self._split(self.qkv(x))  # [B, H, T, D], [B, G, T, D], [B, G, T, D]
        if rotation is not None:
            q, k = rotate(q, *rotation), rotate(k, *rotation)
        if cache is not None:
            k, v = cache.write(k, v)  # [B, G, S, D]
        if need_weights:
            y, weights = _with_weights(q, k, v, mask)  # [B, H, T, D], [B, H, T, S]
        else:
            y, weights = _fused(q, k, v, mask, is_causal), None
        y = y.transpose(1, 2).flatten(2)  # [B, T, H, D] -> [B, T, C]
        return self.out(y), weights

    def _split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, T, (H + 2G) D] -> queries [B, H, T, D], keys and values [B, G, T, D]."""
        batch, new, _ = qkv.shape
        heads = qkv.view(batch, new, -1, self.head_dim).transpose(1, 2)  # [B, H + 2G, T, D]
        return heads.split_with_sizes((self.heads, self.key_heads, self.key_heads), dim=1)


class Block(nn.Module):
    """Attention between positions, then a small network on each position by itself."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.norm_1 = LayerNorm(config.width)
        self.attention = SelfAttention(config)
        self.norm_2 = LayerNorm(config.width)
        self.up = nn.Linear(config.width, 4 * config.width)
        self.down = nn.Linear(4 * config.width, config.width)

    def forward(
        self, x: Tensor, mask: Tensor | None, **options: object
    ) -> tuple[Tensor, Tensor | None]:
        """As `SelfAttention.forward`: states [B, T, C] to new states, and attention weights."""
        y, weights = self.attention(self.norm_1(x), mask, **options)
        x = x + y
        wide = F.gelu(self.up(self.norm_2(x)), approximate="tanh")  # [B, T, 4C]
        return x + self.down(wide), weights


class GPT(nn.Module):
    """A decoder-only language model: words in, logits of each next word out.

    Args:
        config: the sizes.
        rng: source of the initial weights. They are drawn by NumPy in float64, so that a seed
            gives the same model on every processor. None leaves them for a loader to fill in.
        mask: which positions may attend to which; any rule of `course_lib.masks`.
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
        self.config = config
        self.mask = causal() if mask is None else mask
        self.masking = _checked(masking)
        self.word = nn.Embedding(config.vocab_size, config.width)
        if config.positions == "learned":
            self.position = nn.Embedding(config.context, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.vocab_size, bias=False)
        if config.tied:
            self.head.weight = self.word.weight
        self.to(dtype)
        if rng is not None:
            _initialise(self, rng)

    def forward(
        self,
        tokens: Tensor,
        *,
        cache: Sequence[Cache] | None = None,
        start: int | None = None,
        padding: Tensor | None = None,
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
            padding: how many slots at the left of each sequence are padding, integer [B]; the
                same for all chunks of a text, which the cache remembers. Nobody attends to them,
                and the first real word stands at *logical* position 0. What the model says at
                padded slots means nothing.
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
        _check_tokens(tokens, self.word.weight.device)
        if self._is_masked and self.mask.batch not in (None, 1, len(tokens)):
            raise ValueError(
                f"tokens: expected {self.mask.batch} sequences, as {self.mask!r} has data for; "
                f"got {len(tokens)}"
            )
        first = self._check_cache(tokens, cache, start)  # the position of the first new word
        slots = torch.arange(first, first + tokens.shape[1], device=tokens.device)  # [T]
        k_slots = slots if cache is None else cache[0].positions_after(len(slots)).to(slots)  # [S]
        padding = self.check_padding(padding, tokens)
        if cache is not None:
            _check_same_padding(cache, padding)
        if self._is_masked:
            check_chunk(self.mask, first, len(slots), 0 if cache is None else cache[0].first)
        mask, is_causal = self._in_force(slots, k_slots, padding, dense=return_weights)
        logical = slots if padding is None else (slots - padding[:, None]).clamp(min=0)  # [B, T]
        rotation = self._rotation(logical) if self.config.positions == "rotary" else None
        x = self.embed(tokens, logical)  # [B, T, C]
        all_weights = []
        for i, block in enumerate(self.blocks):
            x, weights = block(
                x,
                mask,
                is_causal=is_causal,
                rotation=rotation,
                cache=None if cache is None else cache[i],
                need_weights=return_weights,
            )  # [B, T, C], [B, H, T, S]
            all_weights.append(weights)
        logits = self.head(self.norm(x[:, -1:] if last_only else x))  # [B, T, V]
        for layer in cache or ():
            layer.padding = padding
            layer.commit(len(slots))
        return (logits, all_weights) if return_weights else logits

    def embed(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        """What a word is plus (if positions are learned) where it is: [B, T] -> [B, T, C].

        Args:
            tokens: word numbers, shape [B, T].
            positions: logical positions, shape [T] or [B, T]; 0..T-1 if not given.

        Raises:
            ValueError: if a word is not in the vocabulary (on a GPU PyTorch stops with an
                error of its own: looking first would make every step wait for the GPU).
        """
        try:
            x = self.word(tokens)
        except IndexError:
            raise ValueError(
                f"tokens: expected word numbers in 0..{self.config.vocab_size - 1}; "
                f"got {int(tokens.min())}..{int(tokens.max())}"
            ) from None
        if self.config.positions != "learned":
            return x
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device)
        return x + self.position(positions)

    def visible(
        self,
        q_pos: Positions,
        device: torch.device | None = None,
        *,
        k_pos: Positions | None = None,
        padding: Tensor | None = None,
    ) -> Tensor | None:
        """The mask in force now.

        Args:
            q_pos: slots of the queries: a count n (meaning 0..n-1) or integers [T].
            device: where to make it, if `q_pos` is not a tensor.
            k_pos: slots of the keys, likewise; the same if not given.
            padding: as for `forward`.

        Returns:
            Bool [T, S] (or [B, 1, T, S]), True = may attend; None for no mask.
        """
        if not self._is_masked and padding is None:
            return None
        rule = self.mask if self._is_masked else None
        if padding is not None:
            last = int(torch.as_tensor(q_pos).max()) if not isinstance(q_pos, int) else q_pos - 1
            real = torch.arange(last + 1, device=padding.device) >= padding[:, None]  # [B, slots]
            # A padded slot sees itself, because a softmax over nothing is 0/0; nobody reads it.
            seen = not_padding(real) | sliding_window(1)
            rule = seen if rule is None else rule & seen
        return rule.tensor(q_pos, k_pos, device=device)

    def new_cache(self, kind: CacheKind = "static", size: int | None = None) -> list[Cache]:
        """An empty cache: one a layer, for `forward`.

        Args:
            kind: "concat", "static" or "ring" (see `course_lib.cache`).
            size: capacity of a static cache (the model's context if not given) or window of a
                ring (needed there); not for "concat".

        Raises:
            ValueError: if `kind` is unknown, or `size` missing, unwanted, below 1 or beyond the
                model's context.
        """
        return new_caches(kind, self.config.layers, self.config.context, size)

    def seen(self, cache: Sequence[Cache]) -> int:
        """How many positions a cache has seen, if it is one that this model can use.

        Raises:
            TypeError: if it is no list of caches.
            ValueError: if it does not have one cache a layer, all in the same state, or if the
                model does not apply its mask.
        """
        self._usable(cache)
        return cache[0].length

    def with_masking(self, masking: Masking) -> "GPT":
        """A copy with the same weights that applies the mask at other times."""
        twin = copy.deepcopy(self)
        twin.masking = _checked(masking)
        return twin

    # --- inside ------------------------------------------------------------------------------

    @property
    def _is_masked(self) -> bool:
        return self.masking == "always" or (self.masking == "training" and self.training)

    def _usable(self, cache: Sequence[Cache]) -> None:
        """The checks of `seen`."""
        _check_layers(cache, self.config.layers)
        if not self._is_masked:
            raise ValueError(
                "cache: expected a model that applies its mask, because only the mask keeps "
                f"past keys from changing; got masking={self.masking!r}"
            )

    def _in_force(
        self, slots: Tensor, k_slots: Tensor, padding: Tensor | None, *, dense: bool
    ) -> tuple[Tensor | None, bool]:
        """(mask, whether it is the square causal one); the mask is None if it is not needed."""
        plain = self._is_masked and self.mask.is_causal and padding is None and not dense
        plain = plain and type(self).visible is GPT.visible  # chapter 5 overrides it to show bugs
        if plain and len(slots) == 1 and len(k_slots) == int(slots[0]) + 1:
            return None, False  # one new position, which sees all the others
        if plain and len(slots) == len(k_slots):
            return None, True
        return _simplified(self.visible(slots, k_pos=k_slots, padding=padding))

    def _rotation(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines for positions [T] or [B, T], shape [..., 1, T, D / 2]."""
        half = self.config.head_dim // 2
        frequency = 10_000.0 ** (-torch.arange(half, dtype=torch.float64) / half)  # [D / 2]
        angle = positions.double()[..., None] * frequency.to(positions.device)  # [..., T, D / 2]
        angle = angle.unsqueeze(-3)  # one axis for the heads
        dtype = self.word.weight.dtype
        return angle.cos().to(dtype), angle.sin().to(dtype)

    def _check_cache(self, tokens: Tensor, cache: Sequence[Cache] | None, start: int | None) -> int:
        """Refuse a cache or a start that does not fit; the position of the first new word."""
        first = 0 if cache is None else self.seen(cache)
        if start is not None and start != first:
            raise ValueError(f"start: expected {first}, the positions seen so far; got {start}")
        new = tokens.shape[1]
        if first + new > self.config.context:
            parts = f" ({first} cached and {new} new)" if first else ""
            raise ValueError(
                f"tokens: expected at most {self.config.context} positions (the context); "
                f"got {first + new}{parts}"
            )
        return first

    def check_padding(self, padding: Tensor | None, tokens: Tensor) -> Tensor | None:
        """Padding as an integer tensor [B], checked; None if there is none.

        Raises:
            TypeError: if it is not of integers.
            ValueError: if it is not one number of at least 0 for each sequence.
        """
        if padding is None:
            return None
        padding = torch.as_tensor(padding, device=tokens.device).clone()  # the cache keeps it
        if padding.is_floating_point() or padding.dtype == torch.bool:
            raise TypeError(f"padding: expected integers, slots a sequence; got {padding.dtype}")
        if padding.shape != tokens.shape[:1] or bool((padding < 0).any()):
            raise ValueError(
                f"padding: expected one number of at least 0 for each of {len(tokens)} sequences; "
                f"got {padding.tolist()}"
            )
        return padding if bool(padding.any()) else None


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of entries (i, i + D/2) of x by its angle; lengths do not change.

    The dot product of a query at position m and a key at n then depends on m - n only.
    Source: J. Su et al., "RoFormer", 2021, arXiv:2104.09864, with the pairing of Llama.

    Args:
        x: queries or keys, shape [B, H, T, D].
        cos: cosines of the angles, shape [..., T, D / 2].
        sin: sines, likewise.

    Returns:
        Shape and dtype of x.
    """
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


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


# --- attention with shared keys ----------------------------------------------------------------


def _with_weights(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The five steps of `course_lib.attention`; G key heads are shared by broadcasting."""
    shared = q.shape[1] // k.shape[1]  # H / G
    if shared == 1:
        return attention(q, k, v, mask)
    q = q.unflatten(1, (-1, shared))  # [B, G, H / G, T, D]
    mask = mask.unsqueeze(1) if mask is not None and mask.ndim == 4 else mask
    y, weights = attention(q, k.unsqueeze(2), v.unsqueeze(2), mask)  # keys [B, G, 1, S, D]
    return y.flatten(1, 2), weights.flatten(1, 2)


def _fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool) -> Tensor:
    """The same without keeping the weights, and without copies of shared keys."""
    batch, heads, new, width = q.shape
    shared = heads // k.shape[1]  # H / G
    if new == 1:
        # One query a head: the queries that share a key are the rows of one small matrix.
        if shared == 1:
            return _few_queries(q, k, v, mask)  # [B, H, 1, D]
        rows = q.reshape(batch, -1, shared, width)  # [B, G, H / G, D]
        return _few_queries(rows, k, v, mask).reshape(q.shape)
    v = v if v.stride(-1) == 1 else v.contiguous()  # a static cache keeps it the other way round
    return F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=None if is_causal else mask,
        is_causal=is_causal,
        enable_gqa=shared > 1,
    )


def _few_queries(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of a few queries [B, G, R, D] to many keys [B, G, S, D].

    The kernel behind `scaled_dot_product_attention` is made for many queries. On a processor two
    plain products read keys and values in less time, and reading is what this costs.
    """
    if not (k.is_cpu and k.dtype in (torch.float32, torch.float64)):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    scores = (k @ (q * k.shape[-1] ** -0.5).mT).mT  # ([B, G, S, D] @ [B, G, D, R]).mT
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)  # no row is blocked as a whole
    weights = scores.softmax(dim=-1)  # [B, G, R, S]
    # The same product either way; the operand that lies in memory row by row goes first.
    return (v.mT @ weights.mT).mT if v.stride(-2) == 1 else weights @ v  # [B, G, R, D]


def _simplified(mask: Tensor | None) -> tuple[Tensor | None, bool]:
    """(mask, whether it is the square causal one); no mask if nothing is blocked.

    Raises:
        ValueError: if a query may attend to nothing.
    """
    if mask is None or bool(mask.all()):
        return None, False
    if not bool(mask.any(dim=-1).all()):
        raise ValueError(
            "mask: expected every query to see at least one key; got a row that sees none. Is "
            "the rule inverted? True means may attend."
        )
    n, square = mask.shape[-2], mask.ndim == 2 and mask.shape[0] == mask.shape[1]
    return mask, square and torch.equal(mask, causal().tensor(n, device=mask.device))


# --- checks ------------------------------------------------------------------------------------


def _check_tokens(tokens: Tensor, device: torch.device) -> None:
    """Refuse inputs that no model can read."""
    if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
        raise TypeError(f"tokens: expected integers; got {tokens.dtype}")
    if tokens.ndim != 2 or tokens.shape[1] == 0:
        raise ValueError(f"tokens: expected shape [B, T], T > 0; got {list(tokens.shape)}")
    if tokens.device != device:
        raise ValueError(f"tokens: expected the device of the model, {device}; got {tokens.device}")


def _check_layers(cache: Sequence[Cache], layers: int) -> None:
    """Refuse what is not one cache a layer, all in the same state."""
    if not isinstance(cache, Sequence) or not all(isinstance(c, Cache) for c in cache):
        raise TypeError("cache: expected a list with one Cache a layer; see GPT.new_cache")
    if len(cache) != layers or len(set(map(id, cache))) != layers:
        raise ValueError(
            f"cache: expected {layers} different caches, one a layer; got {len(cache)}"
        )
    if not all(layer.same_state(cache[0]) for layer in cache[1:]):
        raise ValueError(
            "cache: expected the same kind of cache and the same positions in all layers; got "
            f"lengths {[c.length for c in cache]}"
        )


def _check_same_padding(cache: Sequence[Cache], padding: Tensor | None) -> None:
    """Refuse a chunk whose padding is not that of the chunks before it."""
    before = cache[0].padding
    if cache[0].length == 0 or (before is None and padding is None):
        return
    old, new = ([] if p is None else p.tolist() for p in (before, padding))
    if old != new:
        raise ValueError(
            f"padding: expected {old or None}, as for the positions in the cache; got {new or None}"
        )


def _checked(masking: str) -> Masking:
    """`masking`, if it is one of the known values."""
    if masking not in get_args(Masking):
        raise ValueError(f"masking: expected one of {get_args(Masking)}; got {masking!r}")
    return masking  # type: ignore[return-value]


def _initialise(model: GPT, rng: np.random.Generator) -> None:
    """Matrices normal with deviation 0.02, biases 0, as in GPT-2.

    What is added to the residual stream is scaled down by the number of additions (GPT-2 report,
    section 2.3), so that its size does not grow with depth.
    """
    additions = 2 * model.config.layers
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.data.fill_(1.0 if "norm" in name and "weight" in name else 0.0)
            continue
        scale = 0.02
        if name.endswith(("attention.out.weight", "down.weight")):
            scale /= additions**0.5
        values = rng.normal(0.0, scale, size=tuple(parameter.shape))
        parameter.data.copy_(torch.from_numpy(values))
