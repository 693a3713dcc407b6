"""What one decoding step costs, with and without a cache, ours and Hugging Face's (chapter 5).

    python benchmarks/kv_cache.py            # under six minutes; results/kv_cache.json and README
    python benchmarks/kv_cache.py --batches 1 --contexts 128 --out -

A model of GPT-2-small's shape with random weights, float32, one thread of the processor. Every
variant has the same weights, reads the same prompt and must write the same greedy words; only
then are steps timed. A step is one forward pass that feeds one word (all words, for "recompute")
and takes the likeliest next one; after it the cache is put back, so that every sample is at the
same context. The variants take turns, a few steps each, so that other work on the machine hits all
alike. The table shows medians; the ratios are those of the medians.

Variants: recompute (our model, no cache), concat and static (our caches), hf dynamic and hf
static (Hugging Face's model with its DynamicCache and StaticCache, run eagerly as ours is; its
StaticCache is meant for compiled models), floor (only the matrix products that any step must
make for one word: all weights are read once, nothing else happens).
"""

import argparse
import importlib.metadata
import json
import platform
import re
import statistics
import time
from abc import ABC, abstractmethod
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel, StaticCache

from course_lib.costs import kv_cache_bytes
from course_lib.gpt import GPT
from course_lib.gpt2 import load_gpt2

RESULTS = Path(__file__).parent / "results" / "kv_cache.json"
README = Path(__file__).parents[1] / "README.md"
#: Where the README shows the record.
SHOWN = re.compile(r"(?<=<!-- kv_cache -->\n).*?(?=<!-- /kv_cache -->)", re.DOTALL)
#: Words that every variant must write alike before it is timed.
CHECKED_WORDS = 4
#: Steps in a row, as in generation, before it is the next variant's turn.
BURST = 6


class Variant(ABC):
    """A model and a way of remembering, which can be put back by one word."""

    @abstractmethod
    def prefill(self, tokens: Tensor, total: int) -> None:
        """Read all of `tokens` [B, T]; there will be `total` positions at most."""

    @abstractmethod
    def step(self, word: Tensor) -> Tensor:
        """Read one more word [B, 1] and return the likeliest next one [B, 1]."""

    @abstractmethod
    def back(self) -> None:
        """Forget the last word."""


class Recompute(Variant):
    """Our model, fed with everything each time."""

    def __init__(self, model: GPT) -> None:
        self.model = model

    def prefill(self, tokens: Tensor, total: int) -> None:
        """Nothing to compute yet: that is the point."""
        self.tokens = tokens

    def step(self, word: Tensor) -> Tensor:
        """Feed the whole text; only the last row of logits is made."""
        self.tokens = torch.cat([self.tokens, word], dim=1)
        return self.model(self.tokens, last_only=True).argmax(-1)

    def back(self) -> None:
        """Drop a word of the text."""
        self.tokens = self.tokens[:, :-1]


class Ours(Variant):
    """Our model with one of our caches."""

    def __init__(self, model: GPT, kind: str) -> None:
        self.model, self.kind = model, kind

    def prefill(self, tokens: Tensor, total: int) -> None:
        """Fill a new cache."""
        self.cache = self.model.new_cache(self.kind, total if self.kind == "static" else None)
        self.model(tokens, cache=self.cache, last_only=True)

    def step(self, word: Tensor) -> Tensor:
        """Feed one word."""
        return self.model(word, cache=self.cache, last_only=True).argmax(-1)

    def back(self) -> None:
        """Crop."""
        for layer in self.cache:
            layer.crop(layer.length - 1)


class HuggingFace(Variant):
    """Hugging Face's model with one of its caches."""

    def __init__(self, model: GPT2LMHeadModel, kind: str) -> None:
        self.model, self.kind = model, kind

    def prefill(self, tokens: Tensor, total: int) -> None:
        """Fill a new cache."""
        self.cache = (
            DynamicCache(config=self.model.config)
            if self.kind == "dynamic"
            else StaticCache(config=self.model.config, max_cache_len=total)
        )
        self._feed(tokens)

    def step(self, word: Tensor) -> Tensor:
        """Feed one word; a dynamic layer replaces its tensors, so the old ones can be kept."""
        self.before = [(layer.keys, layer.values) for layer in self.cache.layers]
        return self._feed(word)

    def back(self) -> None:
        """Put the old tensors back, or count one word less."""
        for layer, (keys, values) in zip(self.cache.layers, self.before, strict=True):
            if self.kind == "dynamic":
                layer.keys, layer.values = keys, values
            else:
                layer.cumulative_length.sub_(1)

    def _feed(self, tokens: Tensor) -> Tensor:
        output = self.model(
            tokens, past_key_values=self.cache, use_cache=True, logits_to_keep=1, return_dict=True
        )
        return output.logits.argmax(-1)


class Floor(Variant):
    """The matrix products of one word and nothing else; what it returns means nothing."""

    def __init__(self, model: GPT) -> None:
        self.products = [m for m in model.modules() if isinstance(m, nn.Linear)]

    def prefill(self, tokens: Tensor, total: int) -> None:
        """Make inputs of the right widths."""
        self.inputs = [torch.randn(len(tokens), 1, m.in_features) for m in self.products]

    def step(self, word: Tensor) -> Tensor:
        """Every weight is read once."""
        for product, x in zip(self.products, self.inputs, strict=True):
            product(x)
        return word

    def back(self) -> None:
        """There is no memory to put back."""


def make_models(seed: int = 0) -> tuple[GPT2LMHeadModel, GPT]:
    """GPT-2-small's shape with random weights, twice: theirs and ours."""
    config = GPT2Config(bos_token_id=None, eos_token_id=None)
    config._attn_implementation = "sdpa"
    torch.manual_seed(seed)
    theirs = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for block in theirs.transformer.h:  # so that the next word depends on the context
            block.attn.c_attn.weight.mul_(3)
            block.attn.c_proj.weight.mul_(4)
            block.mlp.c_proj.weight.mul_(4)
    return theirs, load_gpt2(theirs.state_dict(), heads=config.n_head)


def variants_of(theirs: GPT2LMHeadModel, ours: GPT) -> dict[str, Variant]:
    """All variants by name, in the order in which they take turns."""
    return {
        "recompute": Recompute(ours),
        "concat": Ours(ours, "concat"),
        "static": Ours(ours, "static"),
        "hf dynamic": HuggingFace(theirs, "dynamic"),
        "hf static": HuggingFace(theirs, "static"),
        "floor": Floor(ours),
    }


def timed(variant: Variant, word: Tensor) -> tuple[Tensor, float]:
    """The next word, and the milliseconds that the step took."""
    begin = time.perf_counter()
    following = variant.step(word)
    return following, 1000 * (time.perf_counter() - begin)


def measure(variants: dict[str, Variant], context: int, batch: int, rounds: int) -> dict[str, Any]:
    """Median and best step at a context, by variant, once all have written the same words."""
    generator = torch.Generator().manual_seed(context)
    prompt = torch.randint(50257, (batch, context - CHECKED_WORDS + 1), generator=generator)
    samples: dict[str, list[float]] = {name: [] for name in variants}
    texts = {}
    for name, variant in variants.items():
        variant.prefill(prompt[:, :-1], context)
        words = [prompt[:, -1:]]
        for _ in range(CHECKED_WORDS):
            following, ms = timed(variant, words[-1])
            words.append(following)
            samples[name].append(ms)
        texts[name] = torch.cat(words, dim=1).tolist()
        if name != "floor" and texts[name] != texts["recompute"]:
            raise RuntimeError(f"{name} wrote {texts[name]}, and recompute {texts['recompute']}")
    cached = [name for name in variants if name != "recompute"]  # whose four samples are enough
    for name in cached:
        samples[name].clear()
    for variant in variants.values():
        variant.back()
    for _ in range(rounds):
        for name in cached:
            for _ in range(BURST):
                samples[name].append(timed(variants[name], prompt[:, -1:])[1])
                variants[name].back()
    return {
        name: {"median_ms": round(statistics.median(ms), 2), "best_ms": round(min(ms), 2)}
        for name, ms in samples.items()
    }


def ratios_of(steps: dict[str, dict[str, float]]) -> dict[str, float]:
    """What the others take over what our static cache takes, from the medians."""
    ours = steps["static"]["median_ms"]
    return {
        f"{name.replace(' ', '_')}_over_static": round(step["median_ms"] / ours, 3)
        for name, step in steps.items()
        if name != "static"
    }


def hardware() -> dict[str, str | int]:
    """What the numbers depend on."""
    names = [platform.processor() or platform.machine()]
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names += [
            line.split(":", 1)[1].strip()
            for line in cpuinfo.read_text("utf-8").splitlines()
            if line.startswith("model name")
        ][:1]
    return {
        "processor": names[-1],
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "course_lib": importlib.metadata.version("course_lib"),
    }


def shown(result: dict[str, Any]) -> str:
    """The record as the README shows it."""
    hw = result["hardware"]
    names = next(iter(result["steps"].values()))
    head = ["batch, context", *(name.replace("hf", "HF") for name in names)]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for case, steps in result["steps"].items():
        _, batch, _, context = case.split("_")
        cells = [f"{batch}, {context}", *(f"{step['median_ms']:.1f}" for step in steps.values())]
        lines.append(f"| {' | '.join(cells)} |")
    told = (
        f"Median milliseconds of one run on {result['date']}: {hw['processor']} with "
        f"{hw['instructions']}, torch {hw['torch']}, transformers {hw['transformers']}."
    )
    return "\n".join([*lines, "", told, ""])


def main() -> None:
    """Measure, print a table and the ratios, and write them down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--contexts", type=int, nargs="+", default=[128, 1023])
    parser.add_argument("--rounds", type=int, default=20, help=f"turns of {BURST} steps")
    parser.add_argument("--out", default=str(RESULTS), help="a JSON file, or - for none")
    options = parser.parse_args()
    torch.set_num_threads(1)
    theirs, ours = make_models()
    steps = {}
    for batch in options.batches:
        for context in options.contexts:
            rounds = max(2, options.rounds // batch)
            with torch.inference_mode():
                found = measure(variants_of(theirs, ours), context, batch, rounds)
            steps[f"batch_{batch}_context_{context}"] = found
            print(f"batch {batch}, context {context}: all write the same words", flush=True)
            for name, ms in found.items():
                print(f"  {name:<12}{ms['median_ms']:>10.1f} ms   (best {ms['best_ms']:.1f})")
    shape = ours.config
    result = {
        "benchmark": "kv_cache",
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": hardware(),
        "model": {
            "layers": shape.layers,
            "heads": shape.heads,
            "width": shape.width,
            "vocab_size": shape.vocab_size,
            "weights": sum(p.numel() for p in ours.parameters()),
            "cache_bytes_a_token": kv_cache_bytes(
                shape.layers, shape.heads, shape.head_dim, 1, bytes_per_value=4
            ),
            "dtype": "float32",
        },
        "steps": steps,
        "ratios": {case: ratios_of(found) for case, found in steps.items()},
    }
    if options.out != "-":
        Path(options.out).write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    if options.out == str(RESULTS):
        README.write_text(SHOWN.sub(lambda _: shown(result), README.read_text("utf-8")), "utf-8")
    ratios = result["ratios"].items()
    print(json.dumps({f"{case}_{name}": x for case, found in ratios for name, x in found.items()}))


if __name__ == "__main__":
    main()
