"""What transformers makes of the real model: the reference of `course_lib.llama`.

Reading the file takes transformers half a minute, so what it says of `PROMPTS` is recorded:
`python -m tests.helpers.real_reference` writes `tests/data/real_model.json`, and a long test
compares the record, and every logit, with transformers as it is installed.
"""

import json
import sys
from typing import Any

import torch
from torch import Tensor, nn

from course_lib.pretrained import find, load
from tests.helpers.paths import ROOT

RECORD = ROOT / "tests" / "data" / "real_model.json"
#: New tokens a prompt.
NEW = 40
#: Prompts whose greedy continuations have no close decision: the two best logits of each of the 40
#: steps lie at least .02 apart, a hundred times what rounding moves.
CLOSE = 0.02
PROMPTS = (
    "The cat sat on the mat because it was warm, and then the cat",
    "The capital of France is",
    "To bake bread you need flour, water, salt and",
    "The first president of the United States was",
    "The dog chased the ball across the garden and",
    "My favourite season is autumn because",
    "The teacher asked the class to open their books and",
    "def add(a, b):",
    "The sun rises in the east and sets in the",
    "She looked out of the window and saw",
    "The Pacific Ocean is the largest",
    "If it rains tomorrow, we will",
    "The recipe calls for two eggs, a cup of sugar and",
    "Long ago, in a village by the sea, there lived",
    "The quick brown fox jumps over the lazy",
    "Dear Sir or Madam, I am writing to",
    "A bicycle has two wheels and",
    "The king and the queen lived in a",
    "Reading books is good for you because",
    "In winter the lake freezes and the children",
)


def transformers_model() -> nn.Module:
    """The same file, read by transformers (half a minute)."""
    from transformers import AutoModelForCausalLM

    path = find()
    return AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()


@torch.no_grad()
def continuation(theirs: nn.Module, prompt: list[int]) -> tuple[list[int], float]:
    """Their greedy continuation by `NEW` tokens, and how close its closest decision was."""
    past, new, found, gap = None, torch.tensor([prompt]), [], float("inf")
    for _ in range(NEW):
        out = theirs(new, past_key_values=past, use_cache=True)
        past = out.past_key_values
        best, second = out.logits[0, -1].topk(2).values.tolist()
        gap = min(gap, best - second)
        new = out.logits[:, -1:].argmax(-1)
        found.append(int(new))
    return found, gap


def summary(logits: Tensor) -> dict[str, Any]:
    """A few of the last position's logits [T, V], and what all of them sum to."""
    last = logits[-1].double()
    some = [*last.topk(5).indices.tolist(), 0, 1000, 20_000, 49_151]
    return {
        "logits_of": some,
        "logits": [round(x, 4) for x in last[some].tolist()],
        "log_sum_exp": round(last.logsumexp(0).item(), 4),
    }


@torch.no_grad()
def record(theirs: nn.Module) -> dict[str, Any]:
    """What transformers says of each prompt.

    Raises:
        ValueError: if a decision is close.
    """
    _, tokenizer = load()
    rows = []
    for text in PROMPTS:
        prompt = tokenizer.encode(text)
        tokens, gap = continuation(theirs, prompt)
        if gap < CLOSE:
            raise ValueError(f"{text!r}: two words are {gap:.4f} apart; take another prompt")
        logits = theirs(torch.tensor([prompt])).logits[0]
        rows.append({"prompt": text, "continuation": tokens, **summary(logits)})
    return {"rows": rows}


def main() -> int:
    """Write the record."""
    text = json.dumps(record(transformers_model()), ensure_ascii=False)
    RECORD.write_text(text.replace('{"prompt"', '\n {"prompt"') + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
