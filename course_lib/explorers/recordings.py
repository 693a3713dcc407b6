"""What stands behind the generation explorer: runs of a model, position by position (chapter 5).

Training takes a minute and the explorer has to open at once, so the two models of chapter 1 are
trained once, by authors, and what they did is stored beside this file.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from course_lib.costs import kv_cache_bytes
from course_lib.gpt import GPT, evaluating
from course_lib.language import Language, toy

FILE = Path(__file__).parent / "data" / "generation.json"


@dataclass(frozen=True)
class Run:
    """One model and one text, position by position.

    Attributes:
        tokens: the text, T + 1 word numbers; the last one is asked for and never read.
        first: how many words the first step reads; every later step reads one more. In a text
            that is given and not written, all T are read in one step, so `first` is T.
        logits: shape [S, V]: what the model says after each step; for a given text, at each
            position.
        visible: bool [T, T], True = may attend, when all words have been read.
        moved: shape [S, T]: by how much keys and values of the last layer differ, after each
            step, from what they were when first computed; 0 for positions not there yet.
        bytes_each: bytes of keys and values that a cache keeps for one position.
    """

    tokens: NDArray[np.int64]
    first: int
    logits: NDArray[np.float64]
    visible: NDArray[np.bool_]
    moved: NDArray[np.float64]
    bytes_each: int


def record_writing(model: GPT, tokens: Sequence[int] | NDArray[Any], prompt: int) -> Run:
    """Feed a text that a model wrote as it was written, with the whole past in every step.

    Args:
        model: a `GPT`.
        tokens: prompt and new words, T + 1 word numbers.
        prompt: words of the prompt, 1..T.

    Returns:
        The run.

    Raises:
        ValueError: if `prompt` is out of range.
    """
    text = np.asarray(tokens, dtype=np.int64)
    if not 1 <= prompt < len(text):
        raise ValueError(f"prompt: expected 1..{len(text) - 1} words; got {prompt}")
    ends = range(prompt, len(text))
    logits, moved, kept = [], [], None
    for end in ends:
        row, held = _read(model, text[:end])  # [T, V], [T, 2 G D]
        logits.append(row[-1])
        kept = held if kept is None else np.concatenate([kept, held[len(kept) :]])
        change = np.abs(held - kept).max(axis=1)
        moved.append(np.pad(change, (0, len(text) - 1 - end)))
    return _run(model, text, prompt, np.stack(logits), np.stack(moved))


def record_reading(model: GPT, tokens: Sequence[int] | NDArray[Any]) -> Run:
    """Feed a given text in one go, as in training: every position is asked for the next word."""
    text = np.asarray(tokens, dtype=np.int64)
    logits, _ = _read(model, text[:-1])
    return _run(model, text, len(text) - 1, logits, np.zeros((len(logits), len(logits))))


def to_json(run: Run) -> dict[str, Any]:
    """A run as JSON: numbers rounded to what decides, booleans as rows of 0 and 1."""
    plain = asdict(run)
    plain["tokens"] = run.tokens.tolist()
    plain["logits"] = (np.round(run.logits, 4) + 0.0).tolist()
    plain["moved"] = (np.round(run.moved, 4) + 0.0).tolist()
    plain["visible"] = ["".join("01"[int(cell)] for cell in row) for row in run.visible]
    return plain


def load() -> dict[str, Any]:
    """The recorded models of chapter 1, with `Run`s for the texts.

    Returns:
        `floor` (nats a word) and `models`: for "honest" and "cheater" the training `curve`
        (steps, losses), held-out `loss` and its `standard_error`, the `grammatical` share of the
        texts that it wrote, `writes` (a list of `Run`s) and `reads` (a `Run`).
    """
    data = json.loads(FILE.read_text("utf-8"))
    for model in data["models"].values():
        model["writes"] = [_unplain(run) for run in model["writes"]]
        model["reads"] = _unplain(model["reads"])
    return data


def language_of_recording() -> Language:
    """The language that the recorded models were trained on."""
    return toy()


# --- inside --------------------------------------------------------------------------------------


def _read(model: GPT, text: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Logits [T, V], and keys and values of the last layer side by side [T, 2 G D]."""
    found: list[torch.Tensor] = []
    attention: Any = model.blocks[-1].attention
    hook = attention.qkv.register_forward_hook(lambda _m, _i, output: found.append(output))
    try:
        with evaluating(model):
            logits = model(torch.from_numpy(text)[None])
    finally:
        hook.remove()
    held = found[0][0, :, attention.heads * attention.head_dim :]  # behind the queries
    return logits[0].double().numpy(), held.double().numpy()


def _run(
    model: GPT,
    text: NDArray[np.int64],
    first: int,
    logits: NDArray[np.float64],
    moved: NDArray[np.float64],
) -> Run:
    positions, config = len(text) - 1, model.config
    with evaluating(model):  # the mask in force may depend on the mode
        mask = model.visible(torch.arange(positions))
    visible = np.ones((positions, positions), bool) if mask is None else mask.numpy()
    size = model.token_embedding.weight.element_size()
    each = kv_cache_bytes(config.layers, config.kv_heads, config.head_dim, 1, 1, size)
    return Run(text, first, logits, visible, moved, each)


def _unplain(plain: dict[str, Any]) -> Run:
    return Run(
        tokens=np.array(plain["tokens"], dtype=np.int64),
        first=plain["first"],
        logits=np.array(plain["logits"]),
        visible=np.array([[cell == "1" for cell in row] for row in plain["visible"]]),
        moved=np.array(plain["moved"]),
        bytes_each=plain["bytes_each"],
    )
