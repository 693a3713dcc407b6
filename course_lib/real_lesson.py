"""What the sections "On a real model" call: losses, greedy texts, and what was recorded of them.

A cell computes with the model where there is one (`course_lib.pretrained`). Where there is none, in
an exam room or without a network, it says in one line how to get it, and shows what it gave when
the course was built. So that every processor shows the same, numbers are rounded, and `course
build` refuses what rounding could tip over: a number close to a rounding boundary, a greedy text in
which two words were nearly equal.
"""

import json
import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from course_lib.attention_kernels import Attend
from course_lib.generation import left_pad
from course_lib.lesson import BUILD
from course_lib.llama import Llama
from course_lib.pretrained import HOW_TO_GET, find, load
from course_lib.tokenizer import Tokenizer

#: A hundred tokens of plain English, for losses.
PARAGRAPH = (
    "A language model has a simple contract: to guess each next word it may read every word that "
    "came before, and not one that comes after. When that contract is broken, the loss looks "
    "wonderful and the text is nonsense. Engineers have shipped this mistake more than once, "
    "because nothing crashes and the numbers only get better. The cat that sits on the mat is a "
    "small example, but the same rule holds for a letter, a program or a whole book. Now cover the "
    "rest of this line with your hand and guess how it goes on."
)
#: The beginning of a text, for what a model makes of it.
CAT = "The cat sat on the mat because it was warm, and then the cat"

#: The two best logits of a greedy step: a hundred times what float32 moves.
CLOSE = 0.02
_RECORDS = Path(__file__).parent / "real_results"


def mean_loss(
    model: Llama, tokenizer: Tokenizer, text: str, *, attend: Attend | None = None
) -> float:
    """Cross-entropy of each next token of a text, in nats a token.

    Args:
        model: under the mask to be tried (`Llama.with_mask`).
        tokenizer: of the model.
        text: two tokens or more.
        attend: as for `Llama.forward`.
    """
    tokens = torch.tensor([tokenizer.encode(text)])
    with torch.no_grad():
        logits = model(tokens[:, :-1], attend=attend)
    return F.cross_entropy(logits[0], tokens[0, 1:]).item()


def greedy(
    model: Llama,
    tokenizer: Tokenizer,
    prompt: str | Sequence[str],
    n: int,
    *,
    cached: bool = True,
    padded: bool = True,
    positions: Callable[[Tensor, Tensor], Tensor] | None = None,
    attend: Attend | None = None,
) -> str | list[str]:
    """The likeliest next token, n times over.

    `generate` does this for a model as it should be; here some things can be done wrongly.

    Args:
        model: as for `mean_loss`.
        tokenizer: of the model.
        prompt: the beginning of a text, or some: they are padded at the left and go on side by
            side.
        n: how many tokens.
        cached: keep keys and values, else feed the whole text again for each token.
        padded: tell the model where the padding is; False forgets that.
        positions: positions(slots [T], padding [B]) -> [T] or [B, T] for the rotation; None
            leaves it to the model.
        attend: as for `Llama.forward`.

    Returns:
        What follows the prompt, or one text a prompt.

    Raises:
        ValueError: while the course is built, if the two best of a step are close.
    """
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    tokens, padding = left_pad([tokenizer.encode(p) for p in prompts], tokenizer.end or 0)
    length = tokens.shape[1]
    cache = model.new_cache("static", length + n) if cached else None
    gaps = []
    for _ in range(n):
        new = tokens[:, cache[0].length if cache else 0 :]
        slots = torch.arange(tokens.shape[1])[-new.shape[1] :]
        with torch.no_grad():
            logits = model(
                new,
                cache=cache,
                padding=padding if padded else None,
                positions=positions and positions(slots, padding),
                attend=attend,
                last_only=True,
            )[:, -1]  # [B, V]
        best = logits.topk(2)
        gaps.append(best.values[:, 0] - best.values[:, 1])
        tokens = torch.cat([tokens, best.indices[:, :1]], dim=1)
    gap = torch.stack(gaps).min().item()
    if gap < CLOSE and os.environ.get(BUILD):
        raise ValueError(f"prompt: two words came as close as {gap:.4f}; take another text")
    texts = [tokenizer.decode(row) for row in tokens[:, length:]]
    return texts[0] if isinstance(prompt, str) else texts


def on_real_model(
    name: str,
    compute: Callable[[Llama, Tokenizer], Any],
    *,
    digits: int = 2,
    printed: bool = True,
) -> Any:
    """What `compute` gives, or what it gave when the course was built if there is no model here.

    Args:
        name: chapter and result, "05_kv_cache/crop": where it is recorded.
        compute: of model and tokenizer; numbers, texts, and lists and dicts of them.
        digits: decimals that numbers are rounded to.
        printed: people read the numbers, so none may lie near a rounding boundary.

    Returns:
        The result, numbers rounded, tensors and arrays as lists.

    Raises:
        FileNotFoundError: if there is neither a model nor a record; while the course is built, if
            there is no model.
        ValueError: while the course is built, if a number is close to a rounding boundary; while
            it is checked, if the record is another.
    """
    chapter, _, key = name.partition("/")
    file = _RECORDS / f"{chapter}.json"
    records = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    building = os.environ.get(BUILD)
    if not _is_here():
        if building or key not in records:
            raise FileNotFoundError(f"{HOW_TO_GET} Nothing recorded stands in for {name!r}.")
        print(f"{HOW_TO_GET} What follows was recorded.")
        return records[key]
    result = _rounded(compute(*load()), digits, guarded=printed and bool(building))
    if building == "write":
        file.parent.mkdir(exist_ok=True)
        records[key] = result
        text = json.dumps(records, indent=1, sort_keys=True, ensure_ascii=False)
        file.write_text(text + "\n", "utf-8")
    elif building and records.get(key) != result:
        raise ValueError(f"{name}: the record is another; run `course build {chapter}`")
    return result


def _is_here() -> bool:
    """Whether the model can be loaded."""
    return find() is not None and all(map(find_spec, ("gguf", "tokenizers")))


def _rounded(value: Any, digits: int, *, guarded: bool) -> Any:
    """The same with its numbers rounded, as plain lists and dicts."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(k): _rounded(v, digits, guarded=guarded) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(v, digits, guarded=guarded) for v in value]
    if not isinstance(value, float):
        return value
    away = abs(abs(value) * 10**digits % 1 - 0.5) / 10**digits  # from the next boundary
    if guarded and away < 0.1 / 10**digits:
        raise ValueError(f"{value:.6f} is {away:.6f} from a rounding boundary; take another text")
    return round(value, digits) + 0.0
