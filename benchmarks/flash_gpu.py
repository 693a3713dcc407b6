"""The Triton kernels beside cuDNN, PyTorch's default and FlexAttention, on a GPU (chapter 7).

    python benchmarks/flash_gpu.py                 # writes results/flash_gpu.json
    python benchmarks/flash_gpu.py --quick --out - # one length, nothing written
    python benchmarks/flash_gpu.py --sweep         # also times every tile size in the tables

A plain script: it needs torch, triton, NumPy and this checkout, no Jupyter and no installation.
Half precision (bfloat16, or float16 where there is none), random normal data, hidden size 2,048,
16,384 tokens a batch. Variants take turns on rotating inputs; times are medians of CUDA events.
Before a variant is timed, one head of its output (and gradients) is compared with float64.
FLOPs: 4 B H T^2 D, half of that when causal, 2.5 times for the backward pass.

The last line printed is one JSON object of the ratios by name; above 1 is better for us, but for
`causal_over_full`, which should be near 0.5. `decode` is the speed at which the cache is read, as
a share of the speed at which memory is copied.
"""

import argparse
import json
import math
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
RESULTS = ROOT / "benchmarks" / "results" / "flash_gpu.json"
HIDDEN, TOKENS, SETS = 2048, 16_384, 3
DEVICE = "cuda"
Call = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def main(arguments: list[str] | None = None) -> None:
    """Measure, write the record, print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[4096, 8192, 16_384])
    parser.add_argument("--dims", type=int, nargs="+", default=[128, 64])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="T = 4,096, d = 128, 5 rounds")
    parser.add_argument("--sweep", action="store_true", help="time every tile size too")
    parser.add_argument("--no-flex", action="store_true", help="leave out FlexAttention")
    parser.add_argument("--out", default=str(RESULTS), help="where to write; - for nowhere")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        sys.exit("flash_gpu: this benchmark needs a CUDA device, and torch sees none here")
    if options.quick:
        options.lengths, options.dims, options.rounds = [4096], [128], 5
    if options.rounds < 1:
        parser.error("--rounds: expected at least 1")
    record = measure(options)
    if options.out != "-":
        Path(options.out).write_text(json.dumps(record, indent=2) + "\n", "utf-8")
        print(f"wrote {options.out}")
    print(json.dumps(record["ratios"]))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Everything, as it is written to the file."""
    from course_lib.flash import triton_kernels as kernels

    dtype = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else (
        torch.float16
    )  # fmt: skip
    record: dict[str, Any] = {
        "benchmark": "flash_gpu",
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": hardware(),
        "dtype": str(dtype),
        "rounds": options.rounds,
        "forward": {},
        "backward": {},
        "steps": {},
        "errors": {},
        "left_out": {},
        "ratios": {},
    }
    for D in options.dims:
        for length in options.lengths:
            one_shape(record, D, length, dtype, options)
        steps(record, D, max(options.lengths), dtype, options.rounds)
    record["decode"] = decode(record, dtype, options.rounds)
    record["chosen"] = {" ".join(map(str, k)): vars(c) for k, c in kernels.CHOSEN.items()}
    if options.sweep:
        record["sweep"] = sweep(options, dtype)
    return record


def one_shape(
    record: dict[str, Any], D: int, length: int, dtype: torch.dtype, options: argparse.Namespace
) -> None:
    """Forward and backward of all variants at one head dimension and length."""
    batch, heads = max(1, TOKENS // length), HIDDEN // D
    sets = [inputs(batch, heads, length, D, dtype, seed) for seed in range(SETS)]
    flops = 4 * batch * heads * length**2 * D / 2
    name = f"d{D}_T{length}"
    calls = variants(length, flex=not options.no_flex)
    working = {}
    for variant, call in calls.items():
        try:
            record["errors"][f"{name} {variant}"] = check(call, sets[0], "full" in variant)
            working[variant] = call
        except Exception as error:
            record["left_out"][f"{name} {variant}"] = (str(error).splitlines() or ["?"])[0][:200]
    for direction, prepare, factor in (("forward", forward_of, 1), ("backward", backward_of, 2.5)):
        times: dict[str, float] = {}
        runs = {}
        for variant, call in working.items():
            try:
                runs[variant] = [prepare(call, s) for s in sets]
            except Exception as error:
                record["left_out"][f"{name} {variant} {direction}"] = str(error)[:200]
        for variant, ms in take_turns(runs, options.rounds).items():
            work = flops * factor * (2 if "full" in variant else 1)
            times[variant] = ms
            record[direction].setdefault(name, {})[variant] = {
                "median_ms": round(ms, 4),
                "tflops": round(work / ms / 1e9, 1),
            }
            print(f"{direction:<8} {name:<11} {variant:<10} {ms:9.3f} ms {work / ms / 1e9:7.1f}")
        del runs
        ratios(record["ratios"], f"{direction}_{name}", times)
        torch.cuda.empty_cache()


def steps(record: dict[str, Any], D: int, length: int, dtype: torch.dtype, rounds: int) -> None:
    """From the teaching kernel to the tuned one, a step at a time, forward and causal.

    All but the last use the same tiles, so that a step shows its own gain.
    """
    from course_lib.flash import flash_attention, triton_kernels
    from course_lib.flash.triton_steps import step_attention

    capability = torch.cuda.get_device_capability()
    base = triton_kernels.candidates("forward", capability, D, dtype)[-1]
    calls: dict[str, Call] = {
        "teaching kernel": partial(step_attention, config=base),
        "+ exp2, folded scale": partial(step_attention, exp2=True, config=base),
        "+ two loops": partial(step_attention, exp2=True, split=True, config=base),
        "+ long rows first": partial(flash_attention, config=base),
    }
    if capability[0] >= 9:
        calls["+ TMA descriptors"] = partial(flash_attention, config=replace(base, tma=True))
    calls["+ tile size tried out"] = flash_attention
    batch, heads = max(1, TOKENS // length), HIDDEN // D
    sets = [inputs(batch, heads, length, D, dtype, seed) for seed in range(SETS)]
    name, flops = f"d{D}_T{length}", 4 * batch * heads * length**2 * D / 2
    right = one_head(*(x[-1, -1].double() for x in sets[0]), is_full=False)[0]
    runs = {}
    for step, call in calls.items():
        try:
            with torch.no_grad():
                o = call(*sets[0][:3])[-1, -1].double()
            error = ((o - right).abs().max() / right.abs().max()).item()
            if not error <= 0.03:
                raise ValueError(f"off by {error:.2g} of its largest value")
            runs[step] = [forward_of(call, s) for s in sets]
        except Exception as reason:
            record["left_out"][f"{name} step {step}"] = (str(reason).splitlines() or ["?"])[0][:200]
    for step, ms in take_turns(runs, rounds).items():
        found = {"median_ms": round(ms, 4), "tflops": round(flops / ms / 1e9, 1)}
        record["steps"].setdefault(name, {})[step] = found
        print(f"step     {name:<11} {step:<22} {ms:9.3f} ms {found['tflops']:7.1f}")


def ratios(found: dict[str, float], name: str, times: dict[str, float]) -> None:
    """Speed of ours over that of each other variant; causal time over full time."""
    if "ours" not in times:
        return
    for other in ("cudnn", "default", "flash", "flex"):
        if other in times:
            found[f"{name}_over_{other}"] = round(times[other] / times["ours"], 3)
    if "ours full" in times:
        found[f"{name}_causal_over_full"] = round(times["ours"] / times["ours full"], 3)


# --- variants ------------------------------------------------------------------------------------


def variants(length: int, *, flex: bool) -> dict[str, Call]:
    """Name -> attention(q, k, v); all causal but `ours full`."""
    from course_lib.flash import flash_attention
    from course_lib.masks import causal

    def sdpa(backend: SDPBackend | None, *qkv: torch.Tensor) -> torch.Tensor:
        with sdpa_kernel(backend) if backend is not None else nullcontext():
            return F.scaled_dot_product_attention(*qkv, is_causal=True)

    rule = causal()
    calls: dict[str, Call] = {
        "ours": lambda q, k, v: flash_attention(q, k, v, rule),
        "ours full": lambda q, k, v: flash_attention(q, k, v, None),
        "cudnn": partial(sdpa, SDPBackend.CUDNN_ATTENTION),
        "flash": partial(sdpa, SDPBackend.FLASH_ATTENTION),
        "default": partial(sdpa, None),
    }
    if flex:
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        blocks = create_block_mask(rule.mask_mod, None, None, length, length, device=DEVICE)
        compiled = torch.compile(flex_attention, dynamic=False)
        calls["flex"] = lambda q, k, v: compiled(q, k, v, block_mask=blocks)
    return calls


def inputs(
    batch: int, heads: int, length: int, D: int, dtype: torch.dtype, seed: int
) -> list[torch.Tensor]:
    """q, k, v and dO, random normal."""
    generator = torch.Generator(DEVICE).manual_seed(seed)
    shape = (batch, heads, length, D)
    return [torch.randn(shape, generator=generator, device=DEVICE).to(dtype) for _ in range(4)]


def forward_of(call: Call, tensors: list[torch.Tensor]) -> Callable[[], object]:
    """One forward pass, without gradients."""
    q, k, v, _ = tensors

    def run() -> torch.Tensor:
        with torch.no_grad():
            return call(q, k, v)

    return run


def backward_of(call: Call, tensors: list[torch.Tensor]) -> Callable[[], object]:
    """One backward pass of a forward pass that is done already."""
    q, k, v = (x.detach().clone().requires_grad_() for x in tensors[:3])
    o = call(q, k, v)
    return lambda: torch.autograd.grad(o, (q, k, v), tensors[3], retain_graph=True)


# --- right before fast ---------------------------------------------------------------------------


def check(call: Call, tensors: list[torch.Tensor], is_full: bool) -> dict[str, float]:
    """Largest relative errors of output and gradients of one head, against float64.

    Raises:
        ValueError: if one is larger than half precision explains.
    """
    q, k, v = (x.detach().clone().requires_grad_() for x in tensors[:3])
    o = call(q, k, v)
    do = tensors[3]
    got = (o, *torch.autograd.grad(o, (q, k, v), do))
    b, h = q.shape[0] - 1, q.shape[1] - 1
    wanted = one_head(*(x[b, h].detach().double() for x in (q, k, v, do)), is_full)
    bound = 0.03 if q.dtype == torch.bfloat16 else 0.005
    errors = {}
    for name, x, right in zip(("o", "dq", "dk", "dv"), got, wanted, strict=True):
        error = ((x[b, h].double() - right).abs().max() / right.abs().max()).item()
        errors[name] = float(f"{error:.2g}")
        if not error <= bound:
            raise ValueError(f"{name} is off by {error:.2g} of its largest value")
    return errors


def one_head(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, do: torch.Tensor, is_full: bool
) -> list[torch.Tensor]:
    """Output and gradients of [T, D] in float64, a band of queries at a time."""
    from course_lib.masks import causal

    length, D = q.shape
    scale = 1 / math.sqrt(D)
    o, dq, dk, dv = (torch.zeros_like(q) for _ in range(4))
    for first in range(0, length, 1024):
        rows = slice(first, first + 1024)
        s = q[rows] @ k.T * scale
        if not is_full:
            at = torch.arange(first, min(first + 1024, length), device=q.device)
            s = s.masked_fill(~causal().tensor(at, length), -math.inf)
        p = torch.softmax(s, dim=-1)
        o[rows] = p @ v
        dv += p.T @ do[rows]
        ds = p * (do[rows] @ v.T - (do[rows] * o[rows]).sum(-1, keepdim=True))
        dq[rows], dk = ds @ k * scale, dk + ds.T @ q[rows] * scale
    return [o, dq, dk, dv]


# --- time ----------------------------------------------------------------------------------------


def take_turns(runs: dict[str, list[Callable[[], object]]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each variant; all run once a round, each time on the next inputs."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(-3, rounds):  # three rounds to warm up
        for name, calls in runs.items():
            ms = timed(calls[turn % len(calls)])
            if turn >= 0:
                times[name].append(ms)
    return {name: statistics.median(all_ms) for name, all_ms in times.items()}


def timed(run: Callable[[], object]) -> float:
    """Milliseconds between two events around one call."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    torch.cuda._sleep(200_000)  # the call is queued before the GPU gets to it: no launch time
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def copy_speed(rounds: int, size: int = 2**29) -> float:
    """Bytes a second of copying: each is read once and written once."""
    source = torch.zeros(size, dtype=torch.uint8, device=DEVICE).random_()
    target = torch.empty_like(source)
    ms = take_turns({"copy": [lambda: target.copy_(source)]}, rounds)["copy"]
    return 2 * size / ms * 1e3


# --- decoding ------------------------------------------------------------------------------------


def decode(record: dict[str, Any], dtype: torch.dtype, rounds: int) -> dict[str, Any]:
    """One step against a cache of about 1 GB: bytes of the cache a second, beside a copy."""
    from course_lib.flash import flash_decode
    from course_lib.masks import causal

    copy = copy_speed(rounds)
    result: dict[str, Any] = {"copy_gb_s": round(copy / 1e9, 1)}
    for name, (batch, heads, kv_heads, length) in {
        "gqa_batch4": (4, 32, 8, 32_768),
        "gqa_batch1": (1, 32, 8, 131_072),
        "mha_batch1": (1, 32, 32, 32_768),
    }.items():
        generator = torch.Generator(DEVICE).manual_seed(0)
        shapes = ((heads, 1), (kv_heads, length), (kv_heads, length))
        q, k, v = (
            torch.randn((batch, h, t, 128), generator=generator, device=DEVICE).to(dtype)
            for h, t in shapes
        )
        o = flash_decode(q, k, v)
        head = [x[-1, -1].double() for x in (q, k, v)]
        s = (head[0] @ head[1].T / math.sqrt(128)).masked_fill(
            ~causal().tensor(torch.tensor([length - 1], device=DEVICE), length), -math.inf
        )
        right = torch.softmax(s, -1) @ head[2]
        error = ((o[-1, -1].double() - right).abs().max() / right.abs().max()).item()
        if not error < 0.03:
            raise ValueError(f"decode {name} is off by {error:.2g} of its largest value")
        calls = {"ours": [lambda q=q, k=k, v=v: flash_decode(q, k, v)]}
        gqa = heads != kv_heads
        sdpa = partial(F.scaled_dot_product_attention, q, k, v, enable_gqa=gqa)
        calls["default"] = [sdpa]  # one query sees all keys: no mask
        times = take_turns(calls, rounds)
        size = 2 * k.numel() * k.element_size()
        speeds = {variant: size / t * 1e3 for variant, t in times.items()}
        result[name] = {
            "cache_gb": round(size / 1e9, 3),
            "relative_error": float(f"{error:.2g}"),
            **{f"{variant}_ms": round(t, 4) for variant, t in times.items()},
            **{f"{variant}_gb_s": round(x / 1e9, 1) for variant, x in speeds.items()},
        }
        record["ratios"][f"decode_{name}_over_copy"] = round(speeds["ours"] / copy, 3)
        print(f"decode   {name:<11} {times['ours']:9.3f} ms {speeds['ours'] / copy:7.3f} of copy")
        del q, k, v, o, head
    return result


# --- tuning --------------------------------------------------------------------------------------


def sweep(options: argparse.Namespace, dtype: torch.dtype) -> dict[str, dict[str, float | str]]:
    """Milliseconds of every tile size in the tables, at 8,192 tokens."""
    from course_lib.flash import triton_kernels as kernels
    from course_lib.masks import causal

    found: dict[str, dict[str, float | str]] = {}
    capability, rule = torch.cuda.get_device_capability(), causal()
    for D in options.dims:
        q, k, v, do = inputs(2, HIDDEN // D, 8192, D, dtype, 0)
        scale = 1 / math.sqrt(D)
        o, lse2 = kernels.forward(q, k, v, rule, scale)
        delta = kernels.row_delta(o, do)
        runs = {
            "forward": partial(kernels.forward, q, k, v, rule, scale),
            "backward": partial(kernels.backward, do, q, k, v, lse2, delta, rule, scale),
        }
        for which, run in runs.items():
            table = found.setdefault(f"{which} d{D}", {})
            for config in kernels.candidates(which, capability, D, dtype):
                try:
                    times = take_turns({"one": [partial(run, config)]}, options.rounds)
                    table[str(config)] = round(times["one"], 4)
                except Exception as error:
                    table[str(config)] = (str(error).splitlines() or ["?"])[0][:100]
                print(f"sweep    {which} d{D} {config}: {table[str(config)]}")
    return found


def hardware() -> dict[str, str]:
    """What a reader must know to compare."""
    import triton

    properties = torch.cuda.get_device_properties(0)
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout
    except OSError:
        driver = ""
    return {
        "device": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "processors": str(properties.multi_processor_count),
        "memory_gib": f"{properties.total_memory / 2**30:.0f}",
        "driver": (driver.splitlines() or ["unknown"])[0],
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    main()
