"""Train the two models of chapter 1 and record what they do, for the generation explorer.

With that chapter's settings and seeds; tests compare what is stored with what it prints. To train
again and compare every number (half a minute), or to write the file anew:

    python -m course_tools.build.recordings --check
    python -m course_tools.build.recordings
"""

import argparse
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from course_lib.explorers.recordings import FILE, record_reading, record_writing, to_json
from course_lib.generation import generate
from course_lib.gpt import GPT, GPTConfig, Masking
from course_lib.language import toy
from course_lib.training import evaluate, train

# The settings of chapter 1.
LENGTH = 24
STEPS = 500
MASKING: dict[str, Masking] = {"honest": "always", "cheater": "never"}
TEXTS = 1000
#: How many of the texts that chapter 1 prints are stored, and how many new words of each.
STORED, NEW_WORDS = 3, 12
#: What both models read under a teacher.
READS = "The cat sat on the mat . The dogs are hungry . The"


def record(steps: int = STEPS, texts: int = TEXTS, held_out: int = 2000) -> dict[str, Any]:
    """Train both models of chapter 1 and record what they do; about a minute on one core.

    Args:
        steps: updates of each model.
        texts: how many texts each model writes.
        held_out: how many texts each model is measured on.

    Returns:
        What `course_lib.explorers.recordings.load` reads, as plain lists.
    """
    language = toy()

    def draw(n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        return language.sample(n, LENGTH + 1, rng)

    first_words = language.sample(texts, 1, np.random.default_rng(3))
    data: dict[str, Any] = {"floor": round(language.min_loss(LENGTH + 1), 6), "models": {}}
    for name, masking in MASKING.items():
        sizes = GPTConfig(len(language.words), LENGTH, layers=2, heads=4, width=48)
        model = GPT(sizes, np.random.default_rng(0), masking=masking)
        history = train(
            model, draw, steps=steps, batch_size=64, rng=np.random.default_rng(1),
            learning_rate=5e-3, description=f"training the {name} model",
        )  # fmt: skip
        measured = evaluate(model, draw, n=held_out, rng=np.random.default_rng(2))
        written = generate(model, first_words, LENGTH, rng=np.random.default_rng(4)).numpy()
        stored = [text[: NEW_WORDS + 1] for text in written[:STORED]]
        at, losses = history.smoothed(min(10, steps))
        data["models"][name] = {
            "curve": [at.astype(int).tolist(), np.round(losses, 4).tolist()],
            "loss": round(measured.mean, 6),
            "standard_error": round(measured.standard_error, 6),
            "grammatical": round(float(language.legal(written).mean()), 6),
            "writes": [to_json(record_writing(model, text, 1)) for text in stored],
            "reads": to_json(record_reading(model, language.encode(READS).tolist())),
        }
    return data


def differences(one: Any, other: Any, tolerance: float, path: str = "") -> list[str]:
    """Where two recordings differ: by structure, by text, or by more than a tolerance.

    Args:
        one: as `record` returns it.
        other: likewise.
        tolerance: greatest difference of numbers that does not count.
        path: where in the recordings these two parts stand.

    Returns:
        One line for each difference.
    """
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [d for k in one for d in differences(one[k], other[k], tolerance, f"{path}/{k}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, tolerance, f"{path}/{i}")]
    if isinstance(one, float) and isinstance(other, (int, float)):
        same = abs(one - other) <= tolerance
    else:
        same = one == other
    return [] if same else [f"{path}: {one} and {other}"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the recording, or with `--check` make it again and compare."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--check", action="store_true", help="compare and write nothing")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    fresh = record()
    if options.check:
        found = differences(json.loads(FILE.read_text("utf-8")), fresh, tolerance=2e-3)
        if found:
            raise SystemExit("the recording differs:\n" + "\n".join(found[:20]))
        print("the recording is what the models do")
        return
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(fresh, separators=(",", ":")) + "\n", "utf-8")


if __name__ == "__main__":
    main()
