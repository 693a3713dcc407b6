"""Free running: a model writes a text one word at a time (chapters 1 and 5).

Without a cache every step feeds the whole text so far and keeps the last row of the logits. That
wastes work, and it is the definition that the cached way is tested against. With one, the prompt
is fed once (in chunks of any size) and then one new word a step.

`stream` yields the words as they come, `generate` collects them.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from course_lib.cache import Cache
from course_lib.gpt import GPT, evaluating
from course_lib.gpt_checks import check_chunk
from course_lib.lesson import progress
from course_lib.validate import check_count


def generate(
    model: nn.Module,
    prompt: Any,
    n: int,
    *,
    temperature: float = 1.0,
    rng: np.random.Generator | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    stop: Collection[int] = (),
    padding: Any = None,
    cache: Literal["concat", "static"] | Sequence[Cache] | None = None,
    chunk: int | None = None,
    description: str | None = None,
) -> Tensor:
    """Continue a prompt by up to `n` words; each new word is fed back as input.

    Args:
        model: maps [B, T] word numbers to [B, T, V] logits; run in evaluation mode. Padding and
            caches need a `GPT`.
        prompt: word numbers, shape [T] or [B, T], T > 0; a list, a NumPy array or a tensor.
        n: number of new words, at least 0.
        temperature: logits are divided by it; 0 takes the likeliest word each time.
        rng: source of randomness; needed unless `temperature` is 0.
        top_k: draw among the k likeliest words only.
        top_p: draw among the fewest likeliest words that together have at least this
            probability; in (0, 1].
        stop: words that end a text. The others of a batch go on; a text that has ended repeats
            its stop word.
        padding: slots of padding at the left of each text, integers [B] (see `left_pad`).
        cache: how to keep keys and values: None feeds the whole text again each time; a name
            makes the model's own caches; or one `Cache` a layer, which may hold the beginning
            of the text (then the prompt is what follows).
        chunk: most words of the prompt to feed at once; all if not given. Needs a cache.
        description: text of a progress bar; none if not given.

    Returns:
        Prompt and continuation, int64, shape [T + n] or [B, T + n]; shorter if all texts ended.

    Raises:
        TypeError: if the prompt is not of integers, or the model has no use for a cache.
        ValueError: if the prompt is empty, the text would not fit into `model.config.context`,
            an option is out of range, or `rng` is missing. A given cache is then as it was. (If
            the reader presses stop, it holds what had been fed by then.)
    """
    words = stream(
        model, prompt, n, temperature=temperature, rng=rng, top_k=top_k, top_p=top_p, stop=stop,
        padding=padding, cache=cache, chunk=chunk,
    )  # fmt: skip
    if description is not None:
        words = progress(words, description, total=n)
    start = _prompt(prompt, next(model.parameters(), torch.empty(0)).device)
    return torch.cat([start, *(word[..., None] for word in words)], dim=-1)


def stream(
    model: nn.Module,
    prompt: Any,
    n: int,
    *,
    temperature: float = 1.0,
    rng: np.random.Generator | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    stop: Collection[int] = (),
    padding: Any = None,
    cache: Literal["concat", "static"] | Sequence[Cache] | None = None,
    chunk: int | None = None,
) -> Iterator[Tensor]:
    """As `generate`, but word by word; requests that cannot be met fail at once.

    Between two words the model is in the mode in which it was, and the cache (if it is yours)
    has seen all words but the last.

    Returns:
        An iterator over word numbers, int64, shape [] or [B].
    """
    tokens = _prompt(prompt, next(model.parameters(), torch.empty(0)).device)
    batch = tokens if tokens.ndim == 2 else tokens[None]
    sampling = Sampling(temperature, top_k, top_p)
    _check(model, batch, n, sampling, rng, stop, padding, cache, chunk)
    if isinstance(cache, str):
        size = {"size": batch.shape[1] + max(1, n) - 1} if cache == "static" else {}
        cache = model.new_cache(cache, **size)
    reader = _Reader(model, cache, padding, chunk)
    words = _words(reader, batch, n, sampling, rng, torch.tensor(sorted(stop), dtype=torch.long))
    return words if tokens.ndim == 2 else (word[0] for word in words)


def left_pad(prompts: Sequence[Sequence[int]], pad: int = 0) -> tuple[Tensor, Tensor]:
    """Texts of different lengths as one batch that ends together, as generation needs it.

    Args:
        prompts: B texts, word numbers, none empty.
        pad: the word number to fill in; nobody attends to it, so any will do.

    Returns:
        Word numbers, int64 [B, T] with T the longest, and slots of padding, int64 [B].

    Raises:
        ValueError: if there is no text, or an empty one.
    """
    if len(prompts) == 0 or min(len(p) for p in prompts) == 0:
        raise ValueError("prompts: expected at least one text, and none empty; got an empty one")
    longest = max(len(p) for p in prompts)
    rows = [[pad] * (longest - len(p)) + [int(word) for word in p] for p in prompts]
    return torch.tensor(rows), torch.tensor([longest - len(p) for p in prompts])


# --- choosing a word ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Sampling:
    """How to draw a word from logits; the fields are those of `generate`.

    Raises:
        TypeError: if `top_k` is not an integer.
        ValueError: if a field is out of range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        """Refuse what makes no distribution."""
        if not self.temperature >= 0:
            raise ValueError(f"temperature: expected at least 0; got {self.temperature}")
        if self.top_k is not None:
            if not isinstance(self.top_k, (int, np.integer)) or isinstance(self.top_k, bool):
                raise TypeError(f"top_k: expected an integer; got {self.top_k!r}")
            if self.top_k < 1:
                raise ValueError(f"top_k: expected at least 1; got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: expected a number in (0, 1]; got {self.top_p}")


def choose(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    rng: np.random.Generator | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Tensor:
    """Draw one word from each row of logits.

    Args:
        logits: shape [B, V].
        temperature: as for `generate`.
        rng: one uniform number a row is drawn from it; not used if `temperature` is 0.
        top_k: as for `generate`.
        top_p: as for `generate`.

    Returns:
        Word numbers, int64, shape [B].
    """
    return _choose(logits, Sampling(temperature, top_k, top_p), rng)


def _choose(logits: Tensor, sampling: Sampling, rng: np.random.Generator | None) -> Tensor:
    """`choose`, with checked options."""
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    if rng is None:
        raise ValueError("rng: expected a NumPy Generator when temperature > 0; got None")
    # Inverse transform sampling in float64, so that a seed gives the same text on all machines.
    p = probabilities(logits, sampling).cpu().numpy()
    draws = rng.random((len(p), 1))
    words: NDArray[np.int64] = (np.cumsum(p, axis=-1)[:, :-1] <= draws).sum(axis=-1)
    # The sum may round to less than the draw, and the last words be filtered ones.
    possible = p.shape[-1] - 1 - (p[:, ::-1] > 0).argmax(axis=-1)
    return torch.from_numpy(np.minimum(words, possible)).to(logits.device)


def probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """The distribution that words are drawn from, in float64.

    First the temperature, then top-k (A. Fan et al., 2018, arXiv:1805.04833; words that tie with
    the k-th stay), then top-p (A. Holtzman et al., "The Curious Case of Neural Text
    Degeneration", 2020, arXiv:1904.09751) of what is left.

    Args:
        logits: shape [B, V].
        sampling: with a temperature above 0.

    Returns:
        Shape [B, V]; each row sums to 1.

    Raises:
        ValueError: if the logits, divided by the temperature, make no distribution.
    """
    p = torch.softmax(logits.double() / sampling.temperature, dim=-1)
    if bool(p.isnan().any()):
        raise ValueError(
            "logits: expected numbers that make a distribution; got NaN or infinity, or a "
            f"temperature too small to divide by ({sampling.temperature:g})"
        )
    if sampling.top_k is not None and sampling.top_k < p.shape[-1]:
        least = p.topk(sampling.top_k, dim=-1).values[:, -1:]  # [B, 1]
        p = p.where(p >= least, 0.0)
        p = p / p.sum(dim=-1, keepdim=True)
    if sampling.top_p is not None and sampling.top_p < 1:
        largest, order = p.sort(dim=-1, descending=True, stable=True)
        before = largest.cumsum(dim=-1) - largest  # probability of the words that are likelier
        keep = torch.zeros_like(p, dtype=torch.bool).scatter(-1, order, before < sampling.top_p)
        p = p.where(keep, 0.0)
        p = p / p.sum(dim=-1, keepdim=True)
    return p


# --- reading and writing -----------------------------------------------------------------------


@dataclass
class _Reader:
    """Feeds a model, with or without a cache, and returns the logits after the last word."""

    model: nn.Module
    cache: Sequence[Cache] | None
    padding: Any
    chunk: int | None

    def read(self, new: Tensor, whole: Tensor) -> Tensor:
        """Logits [B, V] after the text `whole` [B, T], of which `new` has not been read yet."""
        if self.cache is None:
            new = whole
        with evaluating(self.model):
            parts = [new] if self.chunk is None else new.split(self.chunk, dim=1)
            return [self._feed(part) for part in parts][-1]

    def _feed(self, tokens: Tensor) -> Tensor:
        if not isinstance(self.model, GPT):
            return self.model(tokens)[:, -1]  # [B, T, V] -> [B, V]
        options = {"cache": self.cache, "padding": self.padding, "last_only": True}
        return self.model(tokens, **options)[:, -1]


def _words(
    reader: _Reader,
    batch: Tensor,
    n: int,
    sampling: Sampling,
    rng: np.random.Generator | None,
    stop: Tensor,
) -> Iterator[Tensor]:
    """The new words of a batch, one [B] after another."""
    ended = torch.zeros(len(batch), dtype=torch.bool, device=batch.device)
    stop, new = stop.to(batch.device), batch
    for _ in range(n):
        logits = reader.read(new, batch)  # [B, V]: what may follow the last word
        word = _choose(logits, sampling, rng)  # [B]
        word = torch.where(ended, batch[:, -1], word)
        yield word
        ended = ended | torch.isin(word, stop)
        if bool(ended.all()):
            return
        new = word[:, None]
        batch = torch.cat([batch, new], dim=1)  # [B, T + 1]


# --- checks ------------------------------------------------------------------------------------


def _prompt(prompt: Any, device: torch.device) -> Tensor:
    """The prompt as an int64 tensor of shape [T] or [B, T]."""
    try:
        tokens = torch.as_tensor(prompt, device=device)
    except ValueError as error:  # torch speaks of sequences and dims
        raise ValueError(f"prompt: texts of different lengths need left_pad; {error}") from None
    if tokens.ndim not in (1, 2) or tokens.numel() == 0:
        raise ValueError(
            "prompt: expected shape [T] or [B, T] with B, T > 0 (a model needs a first word to "
            f"continue); got {list(tokens.shape)}"
        )
    if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
        raise TypeError(f"prompt: expected integers; got {tokens.dtype}")
    return tokens.long()


def _check(
    model: nn.Module,
    batch: Tensor,
    n: int,
    sampling: Sampling,
    rng: np.random.Generator | None,
    stop: Collection[int],
    padding: Any,
    cache: str | Sequence[Cache] | None,
    chunk: int | None,
) -> None:
    """Refuse requests that cannot be met, before any work is done."""
    check_count("n", n, 0)
    if chunk is not None:
        check_count("chunk", chunk, 1)
    if sampling.temperature > 0 and rng is None:
        raise ValueError("rng: expected a NumPy Generator when temperature > 0; got None")
    if not all(isinstance(word, (int, np.integer)) for word in stop):
        raise TypeError(f"stop: expected word numbers; got {stop!r}")
    if cache is None and chunk is not None:
        raise ValueError(f"chunk: expected a cache to keep the chunks in; got {chunk} without one")
    if not isinstance(model, GPT) and not (cache is None and padding is None):
        raise TypeError(
            f"model: expected a GPT, to use a cache or padding; got {type(model).__name__}"
        )
    if isinstance(cache, str) and cache not in ("concat", "static"):
        raise ValueError(
            f"cache: expected None, 'concat', 'static', or one Cache a layer; got {cache!r}"
        )
    _check_length(model, batch, n, padding, cache, chunk)


def _check_length(
    model: nn.Module,
    batch: Tensor,
    n: int,
    padding: Any,
    cache: str | Sequence[Cache] | None,
    chunk: int | None,
) -> None:
    """Refuse a text that does not fit into the context or the cache."""
    held, context = 0, getattr(getattr(model, "config", None), "context", None)
    limits = {} if context is None else {"the model's context": context}
    if cache is not None and not isinstance(cache, str):
        held = model.seen(cache)
        rooms = [layer.room for layer in cache if layer.room is not None]
        if rooms:
            limits["the cache's capacity"] = held + min(rooms)
    length = held + batch.shape[1]
    if isinstance(model, GPT):
        _check_gpt(model, batch, n, held, padding, cache, chunk)
        if model.masking == "always" and model.mask.length is not None:
            limits["the length of the rule's data"] = model.mask.length
    # The last new word is never fed back, so a text of T + n words needs T + n - 1 positions.
    what = min(limits, key=limits.__getitem__, default=None)
    if what is not None and n > 0 and length + n - 1 > limits[what]:
        raise ValueError(
            f"n: expected at most {max(0, limits[what] + 1 - length)} new words after a prompt of "
            f"{length} ({what} is {limits[what]}); got {n}"
        )


def _check_gpt(
    model: GPT,
    batch: Tensor,
    n: int,
    held: int,
    padding: Any,
    cache: str | Sequence[Cache] | None,
    chunk: int | None,
) -> None:
    """Refuse padding that does not fit, unknown words, and a cache that would not do."""
    if bool(((batch < 0) | (batch >= model.config.vocab_size)).any()):
        raise ValueError(
            f"prompt: expected word numbers in 0..{model.config.vocab_size - 1}; "
            f"got {int(batch.min())}..{int(batch.max())}"
        )
    padding = model.check_padding(padding, batch)
    if padding is not None and int(padding.max()) >= held + batch.shape[1]:
        raise ValueError(
            f"padding: expected at least one real word in each text of {held + batch.shape[1]} "
            f"slots; got {padding.tolist()}"
        )
    if cache is None or n == 0:
        return
    # What will be fed at a time: the prompt in chunks, then all new words but the last.
    length, slots = held, getattr(cache[0], "slots", None)
    sizes = [len(part) for part in batch[0].split(chunk or batch.shape[1])] + [1] * (n - 1)
    for size in sizes:
        check_chunk(model.mask, length, size, 0 if slots is None else length - slots)
        length += size
