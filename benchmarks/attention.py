"""Attention with and without its matrix on a CPU: time and memory (chapter 7).

    python benchmarks/attention.py           # about three minutes; writes results/attention.json
    python benchmarks/attention.py --lengths 1024 --rounds 3 --out -

float32, one thread, batch 1, 8 heads of size 64, random normal data. Before a variant is timed its
output is compared with attention in float64. Variants take turns, so that other work on the
machine hits all alike; the times are medians, and the best is kept too. Memory is the highest
resident size of a fresh process during one call, less what it held before and less the output
(Linux only); each of those processes first makes a small call, which loads the libraries.

Variants: `naive numpy` and `naive torch` hold the T x T matrix and mask it (they are what chapter
3 teaches, per head set at once); `tiled numpy` and `tiled torch` are course_lib.flash; `sdpa` is
torch's fused kernel with is_causal=True, `sdpa mask` the same with a boolean mask; `... full` has
no mask.
"""

import argparse
import importlib.metadata
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # NumPy's products read it when it is loaded

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

from course_lib.flash import tiled_attention_numpy, tiled_attention_torch  # noqa: E402
from course_lib.flash.tiled import BLOCK  # noqa: E402
from course_lib.masks import causal  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "attention.json"
HEADS, DIM = 8, 64
LENGTHS = [1024, 2048, 4096, 8192]
#: Longer than this the naive ways need gigabytes and many seconds: fewer samples of them.
LONG = 4096
TOLERANCE = 2e-5
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


def inputs(length: int) -> Arrays:
    """q, k, v of shape [1, HEADS, length, DIM]."""
    rng = np.random.default_rng(length)
    return tuple(rng.normal(size=(1, HEADS, length, DIM)).astype(np.float32) for _ in range(3))


def naive_numpy(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Five steps with the whole matrix, in place where NumPy can."""
    length = q.shape[-2]
    s = q @ k.swapaxes(-1, -2)
    s *= np.float32(1 / math.sqrt(DIM))
    s[..., ~causal().matrix(length)] = -np.inf
    s -= s.max(axis=-1, keepdims=True)
    np.exp(s, out=s)
    s /= s.sum(axis=-1, keepdims=True)
    return s @ v


def naive_torch(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Five steps with the whole matrix."""
    s = (q @ k.transpose(-1, -2)) / math.sqrt(DIM)
    s = s.masked_fill(~causal().tensor(q.shape[-2]), -torch.inf)
    return torch.softmax(s, dim=-1) @ v


def variants(arrays: Arrays) -> dict[str, Callable[[], object]]:
    """Name -> call; all but the `full` ones compute the same."""
    q, k, v = (torch.from_numpy(x) for x in arrays)
    mask = causal().tensor(q.shape[-2])
    sdpa = F.scaled_dot_product_attention
    return {
        "sdpa": lambda: sdpa(q, k, v, is_causal=True),
        "tiled numpy": lambda: tiled_attention_numpy(*arrays, causal()),
        "tiled torch": lambda: tiled_attention_torch(q, k, v, causal()),
        "sdpa mask": lambda: sdpa(q, k, v, attn_mask=mask),
        "naive numpy": lambda: naive_numpy(*arrays),
        "naive torch": lambda: naive_torch(q, k, v),
        "sdpa full": lambda: sdpa(q, k, v),
        "tiled numpy full": lambda: tiled_attention_numpy(*arrays, None),
        "tiled torch full": lambda: tiled_attention_torch(q, k, v, None),
    }


def reference(arrays: Arrays, rows: np.ndarray) -> np.ndarray:
    """Causal attention in float64 of some query rows, [HEADS, rows, DIM]."""
    q, k, v = (x[0].astype(np.float64) for x in arrays)
    s = q[:, rows] @ k.swapaxes(-1, -2) / math.sqrt(DIM)
    s[:, ~causal().matrix(rows, q.shape[1])] = -np.inf
    p = np.exp(s - s.max(axis=-1, keepdims=True))
    return (p / p.sum(axis=-1, keepdims=True)) @ v


def check(calls: dict[str, Callable[[], object]], arrays: Arrays) -> float:
    """The largest error of any causal variant in 64 rows; stops the run if one is wrong."""
    rows = np.unique(np.linspace(0, arrays[0].shape[-2] - 1, 64).astype(int))
    right, worst = reference(arrays, rows), 0.0
    for name, call in calls.items():
        if name.endswith("full"):
            continue
        error = float(np.abs(np.asarray(call())[0][:, rows] - right).max())
        if not error < TOLERANCE:
            raise SystemExit(f"{name} is off by {error}")
        worst = max(worst, error)
    return worst


def measure(length: int, rounds: int) -> tuple[dict[str, dict[str, float]], float]:
    """Milliseconds of each variant at a length, and the largest error."""
    arrays = inputs(length)
    with torch.no_grad():
        calls = variants(arrays)
        error = check(calls, arrays)
        samples: dict[str, list[float]] = {name: [] for name in calls}
        for number in range(rounds):
            for name, call in calls.items():
                slow = name.startswith("naive") or name == "sdpa mask"
                if number >= (2 if length > LONG else 3) and slow:
                    continue
                begin = time.perf_counter()
                call()
                samples[name].append(1000 * (time.perf_counter() - begin))
    return {
        name: {"median_ms": round(statistics.median(ms), 2), "best_ms": round(min(ms), 2)}
        for name, ms in samples.items()
    }, error


def extra_memory(name: str, length: int) -> float | None:
    """MB (10**6 bytes) that a fresh process needs for one call beyond inputs and output."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    done = subprocess.run(
        [sys.executable, __file__, "--memory-of", name, str(length)],
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},  # freed arrays go back at once
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def print_memory(name: str, length: int) -> None:
    """In the fresh process: print the extra MB of one call."""

    def field(wanted: str) -> int:
        lines = Path("/proc/self/status").read_text("utf-8").splitlines()
        return 1024 * next(int(x.split()[1]) for x in lines if x.startswith(wanted))

    with torch.no_grad():
        variants(inputs(64))[name]()
        call = variants(inputs(length))[name]
        Path("/proc/self/clear_refs").write_text("5")  # reset the high-water mark
        before = field("VmRSS:")
        result = call()
        output = 4 * HEADS * length * DIM
        print(max(0, field("VmHWM:") - before - output) / 1e6)
        del result


def ratios_of(times: dict[str, dict[str, dict[str, float]]], memory: dict) -> dict[str, float]:
    """The ratios that the course promises, from the medians."""
    found = {}
    for length, steps in times.items():
        ms = {name: step["median_ms"] for name, step in steps.items()}
        for name in ("tiled numpy", "tiled torch", "naive numpy", "naive torch", "sdpa mask"):
            found[f"{name.replace(' ', '_')}_over_sdpa_{length}"] = ms[name] / ms["sdpa"]
        for name in ("tiled numpy", "tiled torch", "sdpa"):
            key = f"{name.replace(' ', '_')}_causal_over_full_{length}"
            found[key] = ms[name] / ms[f"{name} full"]
    for length, steps in memory.items():
        for name, mb in steps.items():
            if mb is not None:
                found[f"{name.replace(' ', '_')}_extra_mb_{length}"] = mb
    return {name: round(x, 3) for name, x in found.items()}


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
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {
        "processor": names[-1],
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas of numpy": f"{blas['name']} {blas['version']}",
        "torch": torch.__version__,
        "course_lib": importlib.metadata.version("course_lib"),
    }


def main() -> None:
    """Measure, print a table and the ratios, and write them down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--rounds", type=int, default=7, help="samples of a fast variant")
    parser.add_argument("--out", default=str(RESULTS), help="a JSON file, or - for none")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory_of:
        print_memory(options.memory_of[0], int(options.memory_of[1]))
        return
    times, memory, errors = {}, {}, {}
    for length in options.lengths:
        rounds = options.rounds if length <= LONG else max(3, options.rounds // 2)
        times[str(length)], errors[str(length)] = measure(length, rounds)
        memory[str(length)] = {
            name: extra_memory(name, length)
            for name in ("sdpa", "tiled numpy", "tiled torch", "naive numpy", "naive torch")
        }
        print(f"T = {length}: all causal variants right to {errors[str(length)]:.1e}")
        for name, ms in times[str(length)].items():
            mb = memory[str(length)].get(name)
            words = "" if mb is None else f"{mb:>10.1f} MB"
            print(f"  {name:<18}{ms['median_ms']:>10.1f} ms  (best {ms['best_ms']:.1f}){words}")
    ratios = ratios_of(times, memory)
    result = {
        "benchmark": "attention",
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": hardware(),
        "shape": {"batch": 1, "heads": HEADS, "head_dim": DIM, "dtype": "float32", "tile": BLOCK},
        "times": times,
        "extra_mb": memory,
        "largest_error": {length: float(f"{x:.2g}") for length, x in errors.items()},
        "ratios": ratios,
    }
    if options.out != "-":
        Path(options.out).write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
