"""What benchmarks/on_gpu.sh asks of a GPU beside speed: is it right, and is it as the course says?

    python benchmarks/gpu_checks.py PART --out FILE             # on a GPU
    python benchmarks/gpu_checks.py PART --out FILE --dry-run   # tiny, on a CPU; proves nothing

Parts:

- correct: every kernel against attention in float64, output and gradients, with fresh memory that
  holds NaN; cases run side by side, since compiling takes longer than running;
- rules: the dispatcher's table (course_lib.flash.sdpa_rules) beside the kernels that really ran;
- decisions: both sides of each choice of `course_lib.flash.dispatch`, in milliseconds;
- model: SmolLM2-135M's shape with random weights, tokens a second; with the sizes of one layer;
- small: one small call of each kernel, for compute-sanitizer.

Each writes one JSON file and fails if something of ours is wrong.
"""

import argparse
import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.flash_gpu import first_line, hardware, setting, take_turns  # noqa: E402
from course_lib.masks import Mask, causal, prefix_lm, sinks, sliding_window  # noqa: E402

RULES: dict[str, Mask | None] = {
    "causal": causal(),
    "none": None,
    "window": causal() & (sliding_window(100) | sinks(2)),
    "prefix": prefix_lm(70),
}
TOLERANCE = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2}
Found = dict[str, Any]


# --- is it right? --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One call; [B, H, Tq, D] against [B, Hkv, Tk, D]."""

    rule: str
    dtype: torch.dtype
    D: int
    heads: int = 4
    kv_heads: int = 4
    n_queries: int = 200
    n_keys: int = 200
    strided: bool = False

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        heads = f"{self.heads} heads on {self.kv_heads}"
        sizes = f"{self.n_queries} x {self.n_keys}"
        return f"{self.rule}, {dtype}, D = {self.D}, {heads}, {sizes}{', strided' * self.strided}"


def cases(dry_run: bool) -> list[Case]:
    """All dtypes, head sizes, kinds of rules; groups, caches, strides and odd lengths."""
    half, bf16, wide = torch.float16, torch.bfloat16, torch.float32
    if dry_run:
        return [Case("causal", wide, 16, 2, 1, 20, 37), Case("window", half, 16, 1, 1, 20, 20)]
    return [
        Case("causal", bf16, 128, 8, 1, 300, 300),
        Case("causal", bf16, 64, 8, 2, 129, 700),
        Case("none", half, 128, strided=True),
        Case("window", bf16, 128, 4, 2),
        Case("window", half, 64, n_queries=65, n_keys=333),
        Case("prefix", bf16, 64, strided=True),
        Case("causal", wide, 64, 4, 2),
        Case("prefix", wide, 128),
        Case("causal", half, 32),
        Case("none", half, 16),
    ]


def check_case(case: Case) -> dict[str, float]:
    """Largest errors of the output, the gradients and of decoding, as shares of the largest value.

    Raises:
        ValueError: if one is larger than the dtype explains, or NaN.
    """
    from course_lib.flash.triton_attention import flash_attention, flash_decode

    _poison()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(1)
    shapes = [(case.heads, case.n_queries), *2 * [(case.kv_heads, case.n_keys)]]
    shapes.append((case.heads, case.n_queries))
    q, k, v, do = (
        torch.randn((2, h, t, case.D), generator=generator, device=device).to(case.dtype)
        for h, t in shapes
    )
    if case.strided:  # as a projection leaves them: [B, T, H, D] in memory
        q, k, v, do = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v, do))
    rule = RULES[case.rule]
    inputs = [x.requires_grad_() for x in (q, k, v)]
    o = flash_attention(*inputs, rule)
    got = dict(zip(("o", "dq", "dk", "dv"), (o, *torch.autograd.grad(o, inputs, do)), strict=True))
    wanted = dict(zip(got, exact(*inputs, rule, do), strict=True))
    lengths = torch.tensor([case.n_keys, max(1, case.n_keys // 3)], device=device)
    with torch.no_grad():
        got["decoding"] = flash_decode(q[:, :, -1:], k, v, lengths=lengths)
        rows = []
        for b, n in enumerate(lengths.tolist()):
            one = slice(b, b + 1)
            rows.append(exact(q[one, :, -1:], k[one, :, :n], v[one, :, :n], None)[0])
        wanted["decoding"] = torch.cat(rows)
    errors = {}
    for name, x in got.items():
        right = wanted[name]
        error = ((x.double() - right).abs().max() / right.abs().max()).item()
        if not error <= TOLERANCE[case.dtype]:
            raise ValueError(f"{name} is off by {error:.2g} of its largest value")
        errors[name] = float(f"{error:.2g}")
    return errors


def exact(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    rule: Mask | None,
    do: torch.Tensor | None = None,
) -> tuple[torch.Tensor, ...]:
    """Output, and gradients if `do` is given, in float64, by the five steps."""
    q, k, v = (x.detach().double().requires_grad_(do is not None) for x in (q, k, v))
    group = q.shape[1] // k.shape[1]
    keys, values = (x.repeat_interleave(group, 1) for x in (k, v))
    scores = q @ keys.mT / math.sqrt(q.shape[3])
    if rule is not None:
        positions = torch.arange(k.shape[2] - q.shape[2], k.shape[2], device=q.device)
        scores = scores.masked_fill(~rule.tensor(positions, k.shape[2]), -math.inf)
    o = scores.softmax(-1) @ values
    if do is None:
        return (o,)
    return (o.detach(), *torch.autograd.grad(o, (q, k, v), do.double()))


def _poison() -> None:
    """From now on in this process, memory that nobody has written holds NaN."""

    def filled(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def empty(*args: Any, **kwargs: Any) -> torch.Tensor:
            x = make(*args, **kwargs)
            return x.fill_(math.nan) if x.is_floating_point() else x

        return empty

    torch.empty_like = filled(torch.empty_like)
    torch.Tensor.new_empty = filled(torch.Tensor.new_empty)  # type: ignore[method-assign]


def correct(dry_run: bool) -> Found:
    """Each case in a process of its own, several at a time."""
    found: Found = {"errors": {}, "failed": {}}
    context = multiprocessing.get_context("spawn")
    workers = 2 if dry_run else min(10, os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        jobs = {case: pool.submit(check_case, case) for case in cases(dry_run)}
        for case, job in jobs.items():
            try:
                found["errors"][str(case)] = job.result()
            except Exception as error:
                found["failed"][str(case)] = first_line(error)
            print(f"{case}: {found['errors'].get(str(case)) or found['failed'][str(case)]}")
    return found


# --- is it as the course says? -------------------------------------------------------------------


def rules(dry_run: bool) -> Found:
    """The kernel that the rules name for each call, and the one that ran."""
    from course_lib.flash.available import sdpa_kernel_used
    from course_lib.flash.dispatch import device_of
    from course_lib.flash.sdpa_rules import CALLS, arguments_of, sdpa_kernel_for

    place = "cpu" if dry_run else "cuda"
    device = device_of(torch.zeros(1, device=place))
    found: Found = {"calls": {}, "failed": {}}
    for name, call in CALLS.items():
        said, why = sdpa_kernel_for(call, device)
        try:
            tensors, options = arguments_of(call, place)
            ran = sdpa_kernel_used(*tensors, **options)
        except Exception as error:
            ran = first_line(error)
        found["calls"][name] = {"said": said, "ran": ran, "passed over": why}
        if ran != said:
            found["failed"][name] = f"the rules say {said}; it was {ran}"
        print(f"{name:<40} {ran:<24} {'as said' if ran == said else f'SAID {said}'}")
    return found


def decisions(dry_run: bool) -> Found:
    """The course's kernel and PyTorch's for the calls that `kernel_for` tells apart."""
    from course_lib.flash.dispatch import ModelCall, attend_by, device_of, kernel_for

    s = setting(dry_run, 1 if dry_run else 10)
    long, D, batch = (20, 16, 2) if dry_run else (8192, 128, 2)
    window = causal() & sliding_window(16 if dry_run else 1024)
    found: Found = {"calls": {}, "failed": {}}
    calls = {
        "a whole text, causal": (long, causal(), False),
        "a whole text, a window": (long, window, False),
        "one query on a cache": (1, causal(), False),
        "8 queries on a cache": (8, causal(), False),
        "one query, caches of two lengths": (1, causal(), True),
    }
    q, k, v = (torch.randn(batch, h, long, D, device=s.device, dtype=s.dtype) for h in (8, 2, 2))
    lengths = torch.tensor([long, long // 2], device=s.device)
    for name, (n, rule, ragged) in calls.items():
        call = ModelCall(device_of(q), s.dtype, D, 8, 2, n, long, ragged=ragged)
        chosen = kernel_for(call, rule)
        mask = None
        if ragged:
            mask = (torch.arange(long, device=s.device) < lengths[:, None])[:, None, None]
        elif rule is window:
            mask = rule.tensor(torch.arange(long - n, long), long).to(s.device)
        ours = "flash_decode" if n * 4 <= 128 else "flash_attention"
        last = q[:, :, -n:]
        theirs = partial(attend_by, "sdpa", last, k, v, rule, mask=mask)
        mine = partial(attend_by, ours, last, k, v, rule, lengths=lengths if ragged else None)
        runs, times = {"ours": mine, "sdpa": theirs}, {}
        with torch.no_grad():
            for side, run in runs.items():
                try:
                    times[side] = take_turns({side: [run]}, s.rounds)[side]
                except Exception as error:
                    found["failed" if side == "ours" else "calls"][f"{name} {side}"] = first_line(
                        error
                    )
        faster = min(times, key=lambda side: times[side])
        right = (chosen == "sdpa") == (faster == "sdpa")
        found["calls"][name] = {
            "chosen": chosen, "right": right,
            **{f"{side}_ms": round(ms, 4) for side, ms in times.items()},
        }  # fmt: skip
        print(f"{name:<34} {times} chosen {chosen}: {'right' if right else 'NOT the faster one'}")
    return found


# --- a model's shape -----------------------------------------------------------------------------


def model(dry_run: bool) -> Found:
    """SmolLM2-135M's shape with random weights: tokens a second of a prompt, and one at a time.

    The bound of decoding is its weights and cache over the speed of a copy (course_lib.costs).
    """
    from benchmarks.flash_gpu import copy_speed
    from course_lib.cache import new_caches
    from course_lib.costs import decode_bound, kv_cache_bytes
    from course_lib.llama import Llama, LlamaConfig

    s = setting(dry_run, 3)
    sizes = dict(layers=2, heads=3, kv_heads=1, head_dim=16, width=48, hidden=96)
    if not dry_run:
        sizes = dict(layers=30, heads=9, kv_heads=3, head_dim=64, width=576, hidden=1536)
    vocab, prompt, new = (64, 32, 4) if dry_run else (49_152, 2048, 64)
    config = LlamaConfig(vocab_size=vocab, context=8192, tied=True, **sizes)
    network = Llama(config).to(s.device)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, 0, 0.02)
    network = network.to(torch.float32 if dry_run else s.dtype).eval()
    weight_bytes = sum(p.numel() * p.element_size() for p in network.parameters())
    found: Found = {"shape": {"vocab_size": vocab, **sizes}, "weight_mb": weight_bytes / 1e6,
                    "failed": {}}  # fmt: skip
    found["copy_gb_s"] = copy_speed(s) / 1e9
    with torch.no_grad():
        for batch in (1, 2 if dry_run else 16):
            tokens = torch.randint(vocab, (batch, prompt), device=s.device)
            caches = new_caches("static", config.layers, config.context, prompt + 2 * new)
            feed = partial(network, cache=caches, last_only=True)
            seconds = _timed(partial(feed, tokens), s.device)
            step = tokens[:, -1:]
            feed(step)  # compiles what is to be compiled
            took = _timed(lambda f=feed, t=step: [f(t) for _ in range(new)], s.device)
            one = kv_cache_bytes(sizes["layers"], sizes["kv_heads"], sizes["head_dim"], prompt,
                                 1, 2)  # fmt: skip
            bound = decode_bound(found["copy_gb_s"] * 1e9, weight_bytes, one, batch)
            found[f"batch {batch}"] = {
                "prompt_tokens_s": round(batch * prompt / seconds, 1),
                "decode_tokens_s": round(batch * new / took, 1),
                "decode_bound_tokens_s": round(bound, 1),
            }
            print(f"batch {batch}: {found[f'batch {batch}']}")
    return found


def _timed(run: Callable[[], object], device: str) -> float:
    """Seconds of one call, the GPU's work included."""
    if device == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


# --- for compute-sanitizer -----------------------------------------------------------------------


def small(dry_run: bool) -> Found:
    """One small call of each kernel; what it reads and writes is for others to watch."""
    from course_lib.flash.triton_attention import flash_attention, flash_decode
    from course_lib.flash.triton_tuning import INTERPRETED

    device, D, n = ("cpu", 16, 20) if dry_run or INTERPRETED else ("cuda", 64, 130)
    dtype = torch.float32 if device == "cpu" else torch.float16
    q, k, v = (
        torch.randn(1, h, n, D, device=device, dtype=dtype, requires_grad=True) for h in (4, 2, 2)
    )
    for rule in (causal(), causal() & sliding_window(9)):
        flash_attention(q, k, v, rule).sum().backward()
    with torch.no_grad():
        flash_decode(q[:, :, -1:], k, v, lengths=torch.tensor([n - 3], device=device))
    if device == "cuda":
        torch.cuda.synchronize()
    return {"failed": {}, "kernels": ["forward", "delta", "keys", "queries", "split", "merge"]}


PARTS: dict[str, Callable[[bool], Found]] = {
    "correct": correct,
    "rules": rules,
    "decisions": decisions,
    "model": model,
    "small": small,
}


def main(arguments: list[str] | None = None) -> None:
    """Run one part and write what it found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--out", required=True, type=Path, help="a JSON file")
    parser.add_argument("--dry-run", action="store_true", help="tiny, on a CPU; proves nothing")
    options = parser.parse_args(arguments)
    if options.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported
    elif not torch.cuda.is_available():
        sys.exit("gpu_checks: needs a CUDA device, and torch sees none here")
    begin = time.monotonic()
    found = PARTS[options.part](options.dry_run)
    record = {
        "benchmark": f"gpu_{options.part}",
        "date": datetime.now(UTC).date().isoformat(),
        "dry_run": options.dry_run,
        "hardware": hardware(setting(options.dry_run, 1)),
        "seconds": round(time.monotonic() - begin, 1),
        **found,
    }
    options.out.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    sys.exit(1 if record["failed"] else 0)


if __name__ == "__main__":
    main()
