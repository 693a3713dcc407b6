"""Free running: a model writes a text one word at a time (chapters 1 and 5).

Without a cache every step feeds the whole text so far and keeps the last row of the logits. That
wastes work, and it is the definition that the cached way is tested against. With one, the prompt
is fed once (in chunks of any size) and then one new word a step.

`stream` yields the words as they come, `generate` collects them. Any module that maps [B, T] word
numbers to [B, T, V] logits can write; caches and padding need a `Decoder`, as `GPT`
and `Llama` are.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from course_lib.cache import Cache
from course_lib.decoder import Decoder
from course_lib.decoder_checks import check_padding
from course_lib.generation_checks import (
    as_prompt,
    check_chunks,
    check_length,
    check_model,
    check_real_words,
    check_vocabulary,
)
from course_lib.gpt import evaluating
from course_lib.lesson import progress
from course_lib.sampling import NO_RNG, Sampling, choose
from course_lib.validate import check_count


@dataclass(frozen=True)
class Request(Sampling):
    """How to continue a prompt; `generate` and `stream` take these fields as keywords.

    Attributes:
        temperature, top_k, top_p: see `Sampling`.
        rng: source of randomness; needed unless `temperature` is 0.
        cache: how to keep keys and values: None feeds the whole text again each time; "concat" or
            "static" makes caches for this text; or one `Cache` a layer, which may hold the
            beginning of the text (then the prompt is what follows).
        chunk: most words of the prompt to feed at once; all if not given. Needs a cache.
        padding: slots of padding at the left of each text, integers [B] (see `left_pad`).
        stop: words that end a text. The others of a batch go on; a text that has ended repeats
            its stop word.
    """

    rng: np.random.Generator | None = None
    cache: Literal["concat", "static"] | Sequence[Cache] | None = None
    chunk: int | None = None
    padding: Any = None
    stop: Collection[int] = ()

    def __post_init__(self) -> None:
        """Refuse what no model could do."""
        super().__post_init__()
        if self.temperature > 0 and self.rng is None:
            raise ValueError(NO_RNG)
        if self.chunk is not None:
            check_count("chunk", self.chunk, 1)
            if self.cache is None:
                raise ValueError(
                    f"chunk: expected a cache to keep the chunks in; got {self.chunk} without one"
                )
        if isinstance(self.cache, str) and self.cache not in ("concat", "static"):
            raise ValueError(
                f"cache: expected None, 'concat', 'static', or one Cache a layer; got "
                f"{self.cache!r}"
            )
        if not all(isinstance(word, (int, np.integer)) for word in self.stop):
            raise TypeError(f"stop: expected word numbers; got {self.stop!r}")


def generate(
    model: nn.Module, prompt: Any, n: int, *, description: str | None = None, **options: Any
) -> Tensor:
    """Continue a prompt by up to `n` words; each new word is fed back as input.

    Args:
        model: run in evaluation mode.
        prompt: word numbers, shape [T] or [B, T], T > 0; a list, a NumPy array or a tensor.
        n: number of new words, at least 0.
        description: text of a progress bar; none if not given.
        options: temperature, top_k, top_p, rng, cache, chunk, padding, stop: see `Request`.

    Returns:
        Prompt and continuation, int64, shape [T + n] or [B, T + n]; shorter if all texts ended.

    Raises:
        TypeError: if the prompt is not of integers, an option is unknown, or the model has no use
            for a cache.
        ValueError: if the prompt is empty, the text would not fit into the model's context, the
            cache or the data of its mask, an option is out of range, or `rng` is missing. A given
            cache is then as it was. (If the reader presses stop, it holds what had been fed.)
    """
    words: Iterable[Tensor] = stream(model, prompt, n, **options)
    if description is not None:
        words = progress(words, description, total=n)
    return torch.cat([as_prompt(prompt, model), *(word[..., None] for word in words)], dim=-1)


def stream(model: nn.Module, prompt: Any, n: int, **options: Any) -> Iterator[Tensor]:
    """As `generate`, but word by word; requests that cannot be met fail at once.

    Between two words the model is in the mode in which it was, and the cache (if it is yours)
    has seen all words but the last.

    Returns:
        An iterator over word numbers, int64, shape [] or [B].
    """
    request, tokens = Request(**options), as_prompt(prompt, model)
    text = tokens if tokens.ndim == 2 else tokens[None]  # [B, T]
    check_count("n", n, 0)
    cache, padding = _prepared(model, text, n, request)
    words = _words(model, text, n, request, cache, padding)
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


def _prepared(
    model: nn.Module, text: Tensor, n: int, request: Request
) -> tuple[Sequence[Cache] | None, Tensor | None]:
    """The caches and the padding to work with, after all checks that need the model."""
    check_model(model, request.cache, request.padding)
    if not isinstance(model, Decoder):
        check_length(model, text.shape[1], n)
        return None, None
    cache = None if isinstance(request.cache, str) else request.cache
    with evaluating(model):  # the mask in force may depend on the mode
        length = text.shape[1] + (0 if cache is None else model.seen(cache))
        check_length(model, length, n, cache or ())
        check_vocabulary(text, model.config.vocab_size)
        if isinstance(request.cache, str):
            size = {"size": length + max(1, n) - 1} if request.cache == "static" else {}
            cache = model.new_cache(request.cache, **size)
            model.seen(cache)  # refuses a model that does not apply its mask
        padding = check_padding(request.padding, text, cache)
        check_real_words(padding, length)
        if cache is not None and n > 0:
            chunks = text.split(request.chunk or text.shape[1], dim=1)
            check_chunks(model.rule, cache, [c.shape[1] for c in chunks] + [1] * (n - 1))
    return cache, padding


def _words(
    model: nn.Module,
    text: Tensor,
    n: int,
    request: Request,
    cache: Sequence[Cache] | None,
    padding: Tensor | None,
) -> Iterator[Tensor]:
    """The new words of a batch, one [B] after another."""
    stop = torch.tensor(sorted(request.stop), dtype=torch.long, device=text.device)
    ended = torch.zeros(len(text), dtype=torch.bool, device=text.device)
    unread = text  # [B, T]: all of it, later the last word
    for _ in range(n):
        with evaluating(model):
            if not isinstance(model, Decoder):
                logits = model(text)
            elif cache is None:
                logits = model(text, padding=padding, last_only=True)
            else:
                for part in unread.split(request.chunk or unread.shape[1], dim=1):
                    first = cache[0].length == 0  # later the cache remembers the padding
                    given = padding if first else None
                    logits = model(part, cache=cache, padding=given, last_only=True)
        word = choose(logits[:, -1], request, request.rng)  # [B]: what may follow the last word
        word = torch.where(ended, text[:, -1], word)
        yield word
        if len(stop):
            ended = ended | torch.isin(word, stop)
            if bool(ended.all()):
                return
        unread = word[:, None]
        text = torch.cat([text, unread], dim=1)  # [B, T + 1]
