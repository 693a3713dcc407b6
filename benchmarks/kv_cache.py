"""What one decoding step costs, with and without a cache, ours and Hugging Face's (chapter 5).

    python benchmarks/kv_cache.py            # about eleven minutes; writes results/kv_cache.json
    python benchmarks/kv_cache.py --batches 1 --contexts 128 --processes 1 --out -

A model of GPT-2-small's shape with random weights, float32, one thread of the processor. Every
variant has the same weights, reads the same prompt and must write the same greedy words; only
then are steps timed. A step is one forward pass that feeds one word (all words, for "recompute")
and takes the likeliest next one; after it the cache is put back, so that every sample is at the
same context. The variants take turns, a few steps each, so that other work on the machine hits all
alike. A step takes a few percent more in one process than in another, as long as they live, so a
case of one text is measured in five processes; one of eight texts, which take minutes to read, in
one. The table shows the median of the processes' medians for each variant, and the best step; the
ratios are those of the medians, and the lowest and highest ratio of a single process stand beside
them.

Variants: recompute (our model, no cache), concat and static (our caches), hf dynamic and hf
static (Hugging Face's model with its DynamicCache and StaticCache, run eagerly as ours is; its
StaticCache is meant for compiled models), floor (only the matrix products that any step must
make for one word: all weights are read once, nothing else happens).
"""

import argparse
import importlib.metadata
import json
import multiprocessing
import platform
import statistics
import time
from abc import ABC, abstractmethod
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel, StaticCache

from course_lib.costs import kv_cache_bytes
from course_lib.gpt import GPT
from course_lib.gpt2 import load_gpt2

RESULTS = Path(__file__).parent / "results" / "kv_cache.json"
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


def written(variant: Variant, prompt: Tensor, total: int) -> list[list[int]]:
    """Greedy words after a prompt, of which the last one is fed as the first step."""
    variant.prefill(prompt[:, :-1], total)
    words = [prompt[:, -1:]]
    for _ in range(CHECKED_WORDS):
        words.append(variant.step(words[-1]))
    return torch.cat(words[1:], dim=1).tolist()


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


def measure(context: int, batch: int, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of steps at a context, by variant, in the order in which they were taken."""
    torch.set_num_threads(1)
    variants = variants_of(*make_models())
    generator = torch.Generator().manual_seed(context)
    prompt = torch.randint(50257, (batch, context - CHECKED_WORDS + 1), generator=generator)
    samples: dict[str, list[float]] = {name: [] for name in variants}
    with torch.inference_mode():
        check_agreement(variants, prompt, context)
        full = torch.randint(50257, (batch, context), generator=generator)
        for variant in variants.values():
            variant.prefill(full[:, :-1], context)
        for number in range(rounds):
            for name, variant in variants.items():
                # A step without a cache takes as long as many others; three samples are enough.
                burst = BURST if name != "recompute" else int(number < 3)
                for _ in range(burst):
                    begin = time.perf_counter()
                    variant.step(full[:, -1:])
                    samples[name].append(1000 * (time.perf_counter() - begin))
                    variant.back()
    return samples


def check_agreement(variants: dict[str, Variant], prompt: Tensor, total: int) -> None:
    """Stop unless all variants write the same words."""
    texts = {name: written(v, prompt, total) for name, v in variants.items() if name != "floor"}
    reference = texts["recompute"]
    for name, text in texts.items():
        if text != reference:
            raise RuntimeError(f"{name} wrote {text}, and recompute {reference}")
    distinct = len({word for row in reference for word in row})
    print(f"  all write the same {distinct} different words")


def in_fresh_processes(case: tuple[int, int, int], processes: int) -> list[dict[str, list[float]]]:
    """`measure(*case)` several times, each time in a process of its own, one after the other."""
    found = []
    for _ in range(processes):
        # Unlike a Pool, an executor tells if the process is killed, for want of memory say.
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            found.append(pool.submit(measure, *case).result())
    return found


def steps_of(found: list[dict[str, list[float]]]) -> dict[str, dict[str, float]]:
    """Median over processes of the median step, and best step of all, by variant."""
    return {
        name: {
            "median_ms": round(statistics.median(statistics.median(f[name]) for f in found), 2),
            "best_ms": round(min(min(f[name]) for f in found), 2),
        }
        for name in found[0]
    }


def ratios_of(steps: dict[str, dict[str, float]]) -> dict[str, float]:
    """The ratios that the course promises, from the medians."""
    ms = {name: step["median_ms"] for name, step in steps.items()}
    return {
        "floor_over_static": round(ms["floor"] / ms["static"], 3),
        "recompute_over_static": round(ms["recompute"] / ms["static"], 2),
        "concat_over_static": round(ms["concat"] / ms["static"], 3),
        "hf_dynamic_over_static": round(ms["hf dynamic"] / ms["static"], 3),
        "hf_static_over_static": round(ms["hf static"] / ms["static"], 3),
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


def print_table(
    steps: dict[str, dict[str, float]], ratios: dict[str, float], spread: dict[str, list[float]]
) -> None:
    """Steps by variant, and each ratio with its lowest and highest value in one process."""
    for variant, ms in steps.items():
        print(f"  {variant:<12}{ms['median_ms']:>10.1f} ms   (best {ms['best_ms']:.1f})")
    for name, ratio in ratios.items():
        print(f"  {name:<24}{ratio:>8.3f}   ({spread[name][0]:.3f} to {spread[name][-1]:.3f})")


def main() -> None:
    """Measure, print a table and the ratios, and write them down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--contexts", type=int, nargs="+", default=[128, 1023])
    parser.add_argument("--rounds", type=int, default=10, help=f"turns of {BURST} steps")
    parser.add_argument("--processes", type=int, default=5, help="fresh ones for a single text")
    parser.add_argument("--out", default=str(RESULTS), help="a JSON file, or - for none")
    options = parser.parse_args()
    torch.set_num_threads(1)
    steps, ratios, spread = {}, {}, {}
    for batch in options.batches:
        for context in options.contexts:
            name = f"batch_{batch}_context_{context}"
            print(f"batch {batch}, context {context}", flush=True)
            rounds = options.rounds if batch == 1 else max(2, options.rounds // 3)
            processes = options.processes if batch == 1 else 1
            found = in_fresh_processes((context, batch, rounds), processes)
            steps[name] = steps_of(found)
            ratios[name] = ratios_of(steps[name])
            single = [ratios_of(steps_of([one])) for one in found]
            spread[name] = {key: sorted(r[key] for r in single) for key in ratios[name]}
            print_table(steps[name], ratios[name], spread[name])
    ours = make_models()[1]
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
        "ratios": ratios,
        "ratios_of_single_processes": spread,
    }
    if options.out != "-":
        Path(options.out).write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    flat = {f"{case}_{name}": x for case, found in ratios.items() for name, x in found.items()}
    print(json.dumps(flat))


if __name__ == "__main__":
    main()
