"""The Triton kernels beside cuDNN, PyTorch's default and FlexAttention, on a GPU (chapter 7).

    python benchmarks/flash_gpu.py                  # writes results/flash_gpu.json
    python benchmarks/flash_gpu.py --quick --out -  # one length, nothing written (or --out FILE)
    python benchmarks/flash_gpu.py --dry-run --out FILE   # tiny, in Triton's interpreter: no GPU

`bash benchmarks/on_gpu.sh` runs this and all else that waits for a GPU, in four minutes.

A plain script: it needs torch, triton, NumPy, tqdm and this checkout, no Jupyter and no
installation. Half precision (bfloat16, or float16 where there is none), random normal data, hidden
size 2,048, 16,384 tokens a batch. Variants take turns on rotating inputs; times are medians of CUDA
events. Before a variant is timed, one head of its output (and gradients) is compared with float64.
FLOPs: 4 B H T^2 D, half of that when causal, 2.5 times for the backward pass.

A result of ours that is wrong, or that does not come, is a failure; another's is left out. The
record is written anew after each section, from the most to the least important, so that a run that
is cut short loses one section and not all; a section that fails says so in the record, and the rest
goes on. Compiling takes most of the time of a first run: `--compile-ahead` does that first, on all
processors (`tuning` in the record lists the time of each candidate).

The last line printed is one JSON object of the ratios by name; above 1 is better for us, but for
`causal_over_full`, which should be near 0.5. `decode` is the speed at which the cache is read, as
a share of the speed at which memory is copied. The exit status is 1 if a section failed.
"""

import argparse
import json
import math
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
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
Call = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
Record = dict[str, Any]
#: Ratios that the course wants to reach, by the beginning and the end of their name.
TARGETS = (
    ("forward_d128", "over_cudnn", 0.70),
    ("forward_d128", "over_default", 1.1),
    ("forward_d64", "over_cudnn", 0.95),
    ("backward_d128", "over_cudnn", 0.60),
    ("decode", "over_copy", 0.85),
)


@dataclass(frozen=True)
class Setting:
    """What all sections share.

    Attributes:
        device: "cuda", or "cpu" in a dry run.
        dtype: of all tensors.
        hidden: heads times head dimension.
        tokens: in a batch.
        rounds: times that each variant is timed.
        sets: inputs that take turns, so that none stays in a cache.
        caches: name -> (batch, query heads, key heads, keys, head dimension) of decoding.
    """

    device: str
    dtype: torch.dtype
    hidden: int
    tokens: int
    rounds: int
    sets: int
    caches: dict[str, tuple[int, int, int, int, int]]


def main(arguments: list[str] | None = None) -> None:
    """Measure, write the record, print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+")
    parser.add_argument("--dims", type=int, nargs="+")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--minutes", type=float, default=60, help="start no section after that")
    parser.add_argument("--quick", action="store_true", help="T = 4,096, d = 128, 5 rounds")
    parser.add_argument("--dry-run", action="store_true", help="no GPU: tiny, times mean nothing")
    parser.add_argument("--compile-ahead", action="store_true", help="on all processors, first")
    parser.add_argument("--no-flex", action="store_true", help="leave out FlexAttention")
    parser.add_argument("--out", default=str(RESULTS), help="where to write; - for nowhere")
    options = parser.parse_args(arguments)
    is_record = options.out != "-" and Path(options.out).resolve() == RESULTS
    if options.dry_run and is_record:
        parser.error("--out: expected another file for a dry run, which measures nothing")
    if options.quick and is_record:
        parser.error("--out: expected another file for a quick run, or -; it is no full record")
    if options.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported
    elif not torch.cuda.is_available():
        sys.exit("flash_gpu: this benchmark needs a CUDA device, and torch sees none here")
    small = options.dry_run or options.quick
    usual = ([32], [16], 1) if options.dry_run else ([4096], [128], 5)
    lengths, dims, rounds = usual if small else ([4096, 8192, 16_384], [128, 64], 20)
    options.lengths, options.dims = options.lengths or lengths, options.dims or dims
    rounds = rounds if options.rounds is None else options.rounds
    if rounds < 1:
        parser.error("--rounds: expected at least 1")
    chosen = setting(options.dry_run, rounds)
    if options.compile_ahead:
        compile_ahead(chosen, options.dims)
    record = measure(chosen, options)
    print_targets(record["ratios"])
    print(json.dumps(record["ratios"]))
    sys.exit(1 if record["failed"] else 0)


def setting(dry_run: bool, rounds: int) -> Setting:
    """Sizes for a GPU, or for the interpreter."""
    if dry_run:
        caches = {"gqa_dry": (1, 4, 2, 48, 16)}
        return Setting("cpu", torch.bfloat16, 16, 32, rounds, 2, caches)
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    caches = {  # half a gigabyte each
        "gqa_batch4": (4, 32, 8, 32_768, 128),
        "gqa_batch1": (1, 32, 8, 131_072, 128),
        "mha_batch1": (1, 32, 32, 32_768, 128),
    }
    dtype = torch.bfloat16 if has_bf16 else torch.float16
    return Setting("cuda", dtype, 2048, 16_384, rounds, 3, caches)


def measure(s: Setting, options: argparse.Namespace) -> Record:
    """Section by section; the record is written after each."""
    record: Record = {
        "benchmark": "flash_gpu",
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": hardware(s),
        "dry_run": options.dry_run,
        "dtype": str(s.dtype),
        "rounds": s.rounds,
        "forward": {},
        "backward": {},
        "steps": {},
        "decode": {},
        "default_takes": {},
        "errors": {},
        "left_out": {},
        "failed": {},
        "seconds": {},
        "ratios": {},
    }
    begin = time.monotonic()
    for name, section in sections(s, options):
        started = time.monotonic()
        if started - begin > 60 * options.minutes:
            record["left_out"][name] = "no time left"
        else:
            try:
                section(record)
            except Exception as error:
                traceback.print_exc()
                record["failed"][name] = first_line(error)
            record["seconds"][name] = round(time.monotonic() - started, 1)
            record["tuning"] = tuning()
        save(record, options.out)
    if options.out != "-":
        print(f"wrote {options.out}")
    return record


def sections(
    s: Setting, options: argparse.Namespace
) -> Iterator[tuple[str, Callable[[Record], None]]]:
    """Name and work of each section, the most important first."""
    for i, D in enumerate(options.dims):
        for length in options.lengths:
            yield f"d{D} T{length}", partial(one_shape, s=s, D=D, length=length)
        if i == 0:
            yield "decode", partial(decode, s=s)
        yield f"steps d{D}", partial(steps, s=s, D=D, length=max(options.lengths))
    if not options.no_flex:  # it compiles for half a minute each
        for D in options.dims:
            yield f"flex d{D}", partial(flex, s=s, D=D, length=max(options.lengths))


def compile_ahead(s: Setting, dims: list[int]) -> None:
    """Compile what will be timed, each kernel in some process; Triton keeps it on disk."""
    from benchmarks.triton_steps import walk_on
    from course_lib.flash.triton_tuning import candidates

    begin = time.monotonic()
    capability = torch.cuda.get_device_capability() if s.device == "cuda" else None
    jobs: list[tuple[str, int, bool, int]] = []
    for D in dims:
        jobs += [("steps", D, True, n) for n in range(len(list(walk_on(capability))))]
        for which in ("forward", "backward"):
            tried = candidates(which, capability, D, s.dtype)
            jobs += [(which, D, rule, n) for rule in (True, False) for n in range(len(tried))]
    context = multiprocessing.get_context("spawn")
    workers = min(16, os.cpu_count() or 1) if s.device == "cuda" else 1
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        reasons = list(pool.map(partial(_compile_one, s), jobs))
    for job, reason in zip(jobs, reasons, strict=True):
        if reason:
            print(f"compile  {job}: {reason}")
    print(f"compiled {len(jobs)} kernels ahead in {time.monotonic() - begin:.0f} s")


def _compile_one(s: Setting, job: tuple[str, int, bool, int]) -> str:
    """In a process of its own: one small call with one config; what is against it, or nothing."""
    from benchmarks.triton_steps import call_of, walk_on
    from course_lib.flash import triton_passes
    from course_lib.flash.triton_tuning import candidates
    from course_lib.masks import causal

    which, D, is_causal, n = job
    capability = torch.cuda.get_device_capability() if s.device == "cuda" else None
    q, k, v, do = inputs(s, 2, 2, 16 if s.device == "cpu" else 256, D, seed=0)
    rule = causal() if is_causal else None
    try:
        if which == "steps":
            step, config = list(walk_on(capability))[n]
            tensors = [x.float() if step.float32 or s.device == "cpu" else x for x in (q, k, v)]
            if config is not None:
                call_of(step, config)(*tensors)
            return ""
        if s.device == "cpu":
            q, k, v, do = (x.float() for x in (q, k, v, do))
        config = candidates(which, capability, D, s.dtype)[n]
        if which == "forward":
            triton_passes.forward(q, k, v, rule, 1.0, config)
        else:
            lines = [triton_passes.line_a_head(q, 1.0) for _ in range(2)]
            triton_passes.backward(do, q, k, v, *lines, rule, 1.0, config)
    except Exception as error:
        return first_line(error)
    return ""


def save(record: Record, out: str) -> None:
    """Write the whole record or leave the old one, also if the machine is taken away meanwhile."""
    if out == "-":
        return
    new = Path(out).with_suffix(".new")
    new.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    new.replace(out)


def tuning() -> dict[str, dict[str, float | str]]:
    """What the library tried when it chose its tiles: milliseconds, or why one does not work."""
    from course_lib.flash.triton_tuning import CHOSEN, TRIED

    return {
        " ".join(map(str, kind)): {
            "chosen": str(CHOSEN[kind]),
            **{
                str(config): round(found, 4) if isinstance(found, float) else found
                for config, found in tried.items()
            },
        }
        for kind, tried in TRIED.items()
        if kind in CHOSEN
    }


def note(record: Record, ours: bool, name: str, error: Exception) -> None:
    """Keep why there is no time: a failure if it is ours, else something left out."""
    kind = "failed" if ours else "left_out"
    record[kind][name] = first_line(error)
    print(f"{kind.replace('_', ' '):<8} {name}: {first_line(error)}")


def first_line(error: BaseException) -> str:
    """The beginning of a message."""
    return f"{type(error).__name__}: {(str(error).splitlines() or ['?'])[0][:200]}"


def print_targets(ratios: dict[str, float]) -> None:
    """Each ratio that the course has a target for, beside it."""
    for name, ratio in ratios.items():
        for start, end, target in TARGETS:
            if name.startswith(start) and name.endswith(end):
                verdict = "reached" if ratio >= target else f"short by {target - ratio:.3f}"
                print(f"target   {name:<34} {ratio:7.3f} of {target:.2f}: {verdict}")
        if name.startswith("forward") and name.endswith("16384_causal_over_full"):
            verdict = "reached" if ratio <= 0.54 else f"above by {ratio - 0.54:.3f}"
            print(f"target   {name:<34} {ratio:7.3f}, at most 0.54: {verdict}")
    for start, end in (*(target[:2] for target in TARGETS), ("forward", "16384_causal_over_full")):
        if not any(name.startswith(start) and name.endswith(end) for name in ratios):
            print(f"target   {start}_.._{end}: not measured")


# --- forward and backward ------------------------------------------------------------------------


def one_shape(record: Record, s: Setting, D: int, length: int) -> None:
    """Forward and backward of all variants but FlexAttention at one head dimension and length."""
    from course_lib.flash import sdpa_kernel_used

    time_variants(record, s, D, length, variants())
    q, k, v, _ = inputs(s, max(1, s.tokens // length), s.hidden // D, length, D, seed=0)
    with torch.no_grad():  # which of them `default` stands for; torch changes its mind
        found = sdpa_kernel_used(q, k, v, is_causal=True)
    record["default_takes"][f"d{D}_T{length}"] = found


def flex(record: Record, s: Setting, D: int, length: int) -> None:
    """FlexAttention beside ours."""
    try:
        calls = {"ours": variants()["ours"], "flex": flex_call(s, length)}
    except Exception as error:  # its block mask is made from the whole matrix: much memory
        note(record, False, f"d{D}_T{length} flex", error)
        return
    time_variants(record, s, D, length, calls, only="flex")


def time_variants(
    record: Record, s: Setting, D: int, length: int, calls: dict[str, Call], only: str = ""
) -> None:
    """Check, then time; with `only`, the record keeps that variant and its ratio alone."""
    batch, heads = max(1, s.tokens // length), s.hidden // D
    sets = [inputs(s, batch, heads, length, D, seed) for seed in range(s.sets)]
    flops = 4 * batch * heads * length**2 * D / 2
    name = f"d{D}_T{length}"
    wanted: dict[bool, list[torch.Tensor]] = {}
    working = {}
    for variant, call in calls.items():
        is_full = "full" in variant
        try:
            if is_full not in wanted:
                wanted[is_full] = one_head(*(x[-1, -1].double() for x in sets[0]), is_full)
            record["errors"][f"{name} {variant}"] = check(call, sets[0], wanted[is_full])
            working[variant] = call
        except Exception as error:
            note(record, variant.startswith("ours"), f"{name} {variant}", error)
    for direction, prepare, factor in (("forward", forward_of, 1), ("backward", backward_of, 2.5)):
        runs = {}
        for variant, call in working.items():
            try:
                runs[variant] = [prepare(call, tensors) for tensors in sets]
            except Exception as error:
                ours = variant.startswith("ours")
                note(record, ours, f"{name} {variant} {direction}", error)
        times = take_turns(runs, s.rounds)
        for variant, ms in times.items():
            work = flops * factor * (2 if "full" in variant else 1)
            found = {"median_ms": round(ms, 4), "tflops": round(work / ms / 1e9, 1)}
            if direction == "forward":
                found["peak_mb"] = peak_megabytes(runs[variant][0])
            if only in variant:
                record[direction].setdefault(name, {})[variant] = found
            print(f"{direction:<8} {name:<11} {variant:<10} {ms:9.3f} ms {work / ms / 1e9:7.1f}")
        del runs
        record["ratios"].update(ratios(f"{direction}_{name}", times))
        if s.device == "cuda":
            torch.cuda.empty_cache()


def ratios(name: str, times: dict[str, float]) -> dict[str, float]:
    """Speed of ours over that of each other variant; causal time over full time."""
    if "ours" not in times:
        return {}
    found = {
        f"{name}_over_{other}": round(times[other] / times["ours"], 3)
        for other in ("cudnn", "default", "flash", "flex")
        if other in times
    }
    if "ours full" in times:
        found[f"{name}_causal_over_full"] = round(times["ours"] / times["ours full"], 3)
    return found


def steps(record: Record, s: Setting, D: int, length: int) -> None:
    """From the teaching kernel to the tuned one, forward and causal, beside what was expected."""
    from benchmarks.triton_steps import call_of, walk_on

    capability = torch.cuda.get_device_capability() if s.device == "cuda" else None
    batch, heads = max(1, s.tokens // length), s.hidden // D
    name, flops = f"d{D}_T{length}", 4 * batch * heads * length**2 * D / 2
    sets = [inputs(s, batch, heads, length, D, seed) for seed in range(s.sets)]
    right = one_head(*(x[-1, -1].double() for x in sets[0]), is_full=False)[0]
    found: dict[str, dict[str, Any]] = {}
    before = None
    for step, config in walk_on(capability):
        # The interpreter multiplies no bfloat16, and only the library says so.
        wide = step.float32 or s.device == "cpu"
        tensors = [[x.float() for x in one] if wide else one for one in sets]
        call = call_of(step, config)
        try:
            with torch.no_grad():
                compare("o", call(*tensors[0][:3])[-1, -1].double(), right, 0.03)
            runs = {step.name: [forward_of(call, one) for one in tensors]}
            ms = take_turns(runs, min(5, s.rounds))[step.name]
        except Exception as error:  # all of them are ours
            note(record, True, f"{name} step {step.name}", error)
            continue
        found[step.name] = {
            "median_ms": round(ms, 4),
            "tflops": round(flops / ms / 1e9, 1),
            "expected": list(step.expected),
            "gain": None if before is None else round(before / ms, 2),
        }
        record["steps"][name] = found
        before = ms
        print(f"step     {name:<11} {step.name:<34} {ms:9.3f} ms {found[step.name]['tflops']:7.1f}")


# --- variants ------------------------------------------------------------------------------------


def variants() -> dict[str, Call]:
    """Name -> attention(q, k, v); all causal but `ours full`."""
    from course_lib.flash import flash_attention
    from course_lib.masks import causal

    def sdpa(backend: SDPBackend | None, *qkv: torch.Tensor) -> torch.Tensor:
        with sdpa_kernel(backend) if backend is not None else nullcontext():
            return F.scaled_dot_product_attention(*qkv, is_causal=True)

    rule = causal()
    return {
        "ours": lambda q, k, v: flash_attention(q, k, v, rule),
        "ours full": lambda q, k, v: flash_attention(q, k, v, None),
        "cudnn": partial(sdpa, SDPBackend.CUDNN_ATTENTION),
        "flash": partial(sdpa, SDPBackend.FLASH_ATTENTION),
        "default": partial(sdpa, None),
    }


def flex_call(s: Setting, length: int) -> Call:
    """FlexAttention with the same rule, compiled."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    from course_lib.masks import causal

    blocks = create_block_mask(causal().mask_mod, None, None, length, length, device=s.device)
    compiled = torch.compile(flex_attention, dynamic=False)
    return lambda q, k, v: compiled(q, k, v, block_mask=blocks)


def inputs(
    s: Setting, batch: int, heads: int, length: int, D: int, seed: int
) -> list[torch.Tensor]:
    """q, k, v and dO, random normal."""
    generator = torch.Generator(s.device).manual_seed(seed)
    shape = (batch, heads, length, D)
    return [torch.randn(shape, generator=generator, device=s.device).to(s.dtype) for _ in range(4)]


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


def check(call: Call, tensors: list[torch.Tensor], wanted: list[torch.Tensor]) -> dict[str, float]:
    """Largest relative errors of output and gradients of the last head, against float64.

    Raises:
        ValueError: if one is larger than half precision explains.
    """
    q, k, v = (x.detach().clone().requires_grad_() for x in tensors[:3])
    o = call(q, k, v)
    got = (o, *torch.autograd.grad(o, (q, k, v), tensors[3]))
    bound = 0.03 if q.dtype == torch.bfloat16 else 0.005
    return {
        name: compare(name, x[-1, -1].detach().double(), right, bound)
        for name, x, right in zip(("o", "dq", "dk", "dv"), got, wanted, strict=True)
    }


def compare(name: str, got: torch.Tensor, right: torch.Tensor, bound: float) -> float:
    """The largest error, as a share of the largest value; NaN fails too."""
    error = ((got - right).abs().max() / right.abs().max()).item()
    if not error <= bound:
        raise ValueError(f"{name} is off by {error:.2g} of its largest value")
    return float(f"{error:.2g}")


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


# --- time and memory -----------------------------------------------------------------------------


def take_turns(runs: dict[str, list[Callable[[], object]]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each variant; all run once a round, each time on the next inputs."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(-min(3, rounds), rounds):  # the first ones warm up
        for name, calls in runs.items():
            ms = timed(calls[turn % len(calls)])
            if turn >= 0:
                times[name].append(ms)
    return {name: statistics.median(all_ms) for name, all_ms in times.items()}


def timed(run: Callable[[], object]) -> float:
    """Milliseconds between two events around one call; of the clock in a dry run."""
    if not torch.cuda.is_available():
        start = time.perf_counter()
        run()
        return 1e3 * (time.perf_counter() - start)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    # About a millisecond, in which Python queues the whole call: no time to launch is measured.
    torch.cuda._sleep(2_000_000)
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def peak_megabytes(run: Callable[[], object]) -> float | None:
    """Memory of one call beyond its inputs, the output among it."""
    if not torch.cuda.is_available():
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return round((torch.cuda.max_memory_allocated() - before) / 1e6, 1)


def copy_speed(s: Setting) -> float:
    """Bytes a second of copying: each is read once and written once."""
    size = 2**29 if s.device == "cuda" else 2**20
    source = torch.zeros(size, dtype=torch.uint8, device=s.device).random_()
    target = torch.empty_like(source)
    ms = take_turns({"copy": [lambda: target.copy_(source)]}, s.rounds)["copy"]
    return 2 * size / ms * 1e3


# --- decoding ------------------------------------------------------------------------------------


def decode(record: Record, s: Setting) -> None:
    """One step against a long cache: bytes of the cache a second, beside a copy."""
    copy = copy_speed(s)
    record["decode"]["copy_gb_s"] = round(copy / 1e9, 1)
    for name, shape in s.caches.items():
        try:
            found = decode_one(record, name, s, shape)
        except Exception as error:
            note(record, True, f"decode {name}", error)
            continue
        record["decode"][name] = found
        share = found["ours_gb_s"] * 1e9 / copy
        record["ratios"][f"decode_{name}_over_copy"] = round(share, 3)
        print(f"decode   {name:<11} {found['ours_ms']:9.3f} ms {share:7.3f} of copy")


def decode_one(
    record: Record, name: str, s: Setting, shape: tuple[int, int, int, int, int]
) -> dict[str, float]:
    """Time and speed of ours and of SDPA, after a look at the result."""
    batch, heads, kv_heads, length, D = shape
    from course_lib.flash import flash_decode

    generator = torch.Generator(s.device).manual_seed(0)
    q, k, v = (
        torch.randn((batch, h, t, D), generator=generator, device=s.device).to(s.dtype)
        for h, t in ((heads, 1), (kv_heads, length), (kv_heads, length))
    )
    last = [x[-1, -1].double() for x in (q, k, v)]  # one query that sees all keys: no mask
    right = torch.softmax(last[0] @ last[1].T / math.sqrt(D), -1) @ last[2]
    error = compare("o", flash_decode(q, k, v)[-1, -1].double(), right, 0.03)
    sdpa = partial(F.scaled_dot_product_attention, q, k, v, enable_gqa=heads != kv_heads)
    runs: dict[str, list[Callable[[], object]]] = {"ours": [lambda: flash_decode(q, k, v)]}
    try:
        sdpa()
        runs["default"] = [sdpa]
    except Exception as reason:
        note(record, False, f"decode {name} default", reason)
    times = take_turns(runs, s.rounds)
    size = 2 * k.numel() * k.element_size()
    return {
        "cache_gb": round(size / 1e9, 3),
        "relative_error": error,
        **{f"{variant}_ms": round(ms, 4) for variant, ms in times.items()},
        **{f"{variant}_gb_s": round(size / ms / 1e6, 1) for variant, ms in times.items()},
    }


def hardware(s: Setting) -> dict[str, str]:
    """What a reader must know to compare."""
    import triton

    versions = {
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": platform.python_version(),
    }
    if s.device == "cpu":
        return {"device": "no GPU, a dry run whose times mean nothing", **versions}
    properties = torch.cuda.get_device_properties(0)
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        driver = ""
    return {
        "device": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "processors": str(properties.multi_processor_count),
        "memory_gib": f"{properties.total_memory / 2**30:.0f}",
        "driver": (driver.splitlines() or ["unknown"])[0],
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
        **versions,
    }


if __name__ == "__main__":
    main()
