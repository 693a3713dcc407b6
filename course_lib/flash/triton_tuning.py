"""Which tiles the Triton kernels use: what may be tried on a GPU, and what is chosen (chapter 7).

The best tile depends on the GPU, the dtype, the size and number of heads, the mask and the length.
On a GPU the few candidates of a new kind of call are timed once (a bar shows how far it is), and
the times are kept on disk beside Triton's compiled kernels. `triton.autotune` does the same for one
kernel; here the lists of tiles and, backward, the number of kernels depend on the candidate too.

This module imports triton; without a GPU, TRITON_INTERPRET=1 must be set before that.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import triton
from tqdm.auto import tqdm
from triton.runtime import errors
from triton.runtime.cache import get_cache_manager

from course_lib.flash.triton_forward import CAUSAL, FULL, TILES, forward_kernel
from course_lib.masks import Mask
from course_lib.validate import check_count

#: Whether the kernels run in Triton's interpreter (decided when they were defined).
INTERPRETED = not isinstance(forward_kernel, triton.JITFunction)
#: Log-sum-exps are stored in lines of a multiple of this, so that no load of them needs a mask;
#: so no tile may be longer.
LINE = 128
#: Try all candidates on a GPU from this many keys on; below, the first that fits is taken.
TUNE_FROM = 1024
_NOTHING_FITS = "no tile size works on this device; use scaled_dot_product_attention instead"


def check_tile(name: str, size: int) -> None:
    """Refuse a side of a tile that Triton cannot multiply, or that is longer than a line's padding.

    Raises:
        TypeError: if it is no integer.
        ValueError: if it is not a power of two from 16 to 128.
    """
    if check_count(name, size, 16) != power_of_two(size) or size > LINE:
        raise ValueError(f"{name}: expected a power of two from 16 to {LINE}; got {size}")


def power_of_two(n: int) -> int:
    """The smallest one that is at least n."""
    return 1 << (n - 1).bit_length()


@dataclass(frozen=True)
class Config:
    """One way to cut and to run a kernel.

    Attributes:
        block_q: queries a tile, a power of two from 16 to 128.
        block_k: keys a tile, likewise.
        warps: groups of 32 threads that share a tile.
        stages: tiles of keys on their way from memory at once.
        tma: load with TMA descriptors (Hopper and later), which also frees registers.
    """

    block_q: int
    block_k: int
    warps: int = 4
    stages: int = 2
    tma: bool = False

    def __post_init__(self) -> None:
        for name in ("block_q", "block_k"):
            check_tile(name, getattr(self, name))
        if check_count("warps", self.warps, 1) not in (1, 2, 4, 8, 16, 32):
            raise ValueError(f"warps: expected a power of two of at most 32; got {self.warps}")
        check_count("stages", self.stages, 1)

    def __str__(self) -> str:
        tma = ", TMA" if self.tma else ""
        return f"{self.block_q} x {self.block_k}, {self.warps} warps, {self.stages} stages{tma}"


@dataclass(frozen=True)
class BackwardConfig:
    """One way to run the backward pass.

    Attributes:
        keys: of the kernel that sums dK and dV.
        queries: of the kernel that sums dQ; with None there is no such kernel, and the first one
            adds dQ to memory atomically: five products a tile and not seven, in any order.
    """

    keys: Config
    queries: Config | None

    def __str__(self) -> str:
        return f"dK and dV {self.keys}; dQ {self.queries or 'by atomic additions'}"


AnyConfig = Config | BackwardConfig
#: What was chosen for each kind of call (see `call_kind`).
CHOSEN: dict[tuple[Any, ...], Any] = {}
#: What was tried for it: median milliseconds, or why it does not work here.
TRIED: dict[tuple[Any, ...], dict[AnyConfig, float | str]] = {}


def mode_of(mask: Mask | None) -> int:
    """FULL or CAUSAL where the kernel can do without lists, else TILES."""
    if mask is None or mask.is_full:
        return FULL
    return CAUSAL if mask.is_causal else TILES


# --- candidates ----------------------------------------------------------------------------------
# The order is a guess from what the compiler reports without a device (benchmarks/compiled.py
# records it): registers, spills, shared memory. On Hopper:
# - 8 warps are two groups that multiply by turns; 4 warps want two or three programs a processor;
# - with 2 stages the next tile is fetched during the second product only, with 3 during a whole
#   step, so 8 warps, alone on their processor, want 3;
# - 128 x 128 with 4 warps leaves the assembler so few registers that matrix instructions wait
#   for each other; 128 x 64 is as much as fits;
# - backward at D = 128, nothing larger than what stands here keeps dK, dV and a tile in registers.
# float32 has no matrix units here: a tile lives in registers, 8 warps where 4 would spill.

_FORWARD = {
    "Hopper, D = 128": (
        Config(128, 128, 8, 3, tma=True),
        Config(128, 64, 4, 2, tma=True),
        Config(128, 128, 8, 2, tma=True),
        Config(64, 64, 4, 3, tma=True),
    ),
    "Hopper": (
        Config(64, 128, 4, 2, tma=True),
        Config(128, 64, 4, 3, tma=True),
        Config(128, 128, 8, 3, tma=True),
    ),
    "D = 128": (Config(128, 64, 8, 2), Config(64, 64, 4, 2), Config(128, 32, 4, 3)),
    "": (Config(128, 64, 4, 3), Config(64, 64, 4, 2), Config(128, 32, 4, 3)),
    "float32": (Config(32, 32, 4, 1), Config(16, 32, 4, 1)),
}
_BACKWARD = {
    "Hopper, D = 128": (
        BackwardConfig(Config(32, 128, 8, 2, tma=True), Config(128, 64, 8, 3, tma=True)),
        BackwardConfig(Config(64, 64, 8, 2, tma=True), Config(128, 64, 8, 3, tma=True)),
        BackwardConfig(Config(32, 64, 4, 2, tma=True), Config(64, 64, 4, 2, tma=True)),
        BackwardConfig(Config(32, 64, 8, 2, tma=True), None),
    ),
    "Hopper": (
        BackwardConfig(Config(64, 128, 8, 2, tma=True), Config(128, 64, 8, 2, tma=True)),
        BackwardConfig(Config(64, 64, 4, 2, tma=True), Config(64, 64, 4, 2, tma=True)),
        BackwardConfig(Config(64, 128, 8, 2, tma=True), None),
    ),
    "D = 128": (
        BackwardConfig(Config(64, 64, 8, 1), Config(64, 32, 4, 2)),
        BackwardConfig(Config(32, 64, 8, 1), Config(128, 32, 8, 2)),
        BackwardConfig(Config(32, 32, 4, 1), Config(64, 32, 4, 2)),
    ),
    "": (
        BackwardConfig(Config(32, 128, 8, 1), Config(128, 64, 8, 2)),
        BackwardConfig(Config(32, 64, 4, 1), Config(64, 32, 4, 2)),
    ),
    "float32": (
        BackwardConfig(Config(32, 32, 8, 1), Config(32, 32, 8, 1)),
        BackwardConfig(Config(16, 32, 8, 1), Config(32, 16, 8, 1)),
    ),
}


def candidates(
    which: str, capability: tuple[int, int] | None, D: int, dtype: torch.dtype, tma: bool = True
) -> list[AnyConfig]:
    """Tile sizes worth trying, the safest guess first.

    Args:
        which: "forward" or "backward".
        capability: of the device; None for the interpreter.
        D: head dimension.
        dtype: of the inputs.
        tma: whether the tensors are such that TMA can fetch them.
    """
    if capability is None:
        if which == "forward":
            return [Config(16, 16)]
        return [BackwardConfig(Config(16, 32), Config(32, 16))]
    table: Mapping[str, Sequence[AnyConfig]] = _FORWARD if which == "forward" else _BACKWARD
    if dtype == torch.float32:
        return list(table["float32"])
    size = "D = 128" if D > 64 else ""
    found: list[AnyConfig] = []
    if capability[0] >= 9 and tma:
        found += table[f"Hopper, {size}" if size else "Hopper"]
    if capability[0] != 9 or not tma:  # of what came later, some have less fast memory than Hopper
        found += table[size]
    if torch.are_deterministic_algorithms_enabled():
        found = [c for c in found if not isinstance(c, BackwardConfig) or c.queries]
    return found


def decode_candidates(
    rows: int, D: int, block_k: int | None = None, *, tensor_cores: bool = True
) -> list[Config]:
    """Tiles of the decoding kernel, the one to prefer first; `rows` stands for its queries.

    Fast memory ranges from 99 KB (RTX 4090) to 227 KB (Hopper), so the list goes down to almost
    none. Without tensor cores (float32) each thread multiplies for itself, out of its registers: a
    tile that is too large for them spills kilobytes a thread, so tiles are small and share more
    threads.
    """
    warps = 4 if tensor_cores else 8
    smaller: list[int] = []
    if block_k is None:
        if INTERPRETED:
            block_k = 16
        elif tensor_cores:
            block_k = (128 if D <= 64 else 64) // (2 if rows > 64 else 1)
        else:
            block_k = min(64, max(16, 2**16 // (rows * D)))
        smaller = [size for size in (64, 32, 16) if size < block_k]
    return [
        *(Config(rows, block_k, warps, stages) for stages in (3, 2, 1)),
        *(Config(rows, size, warps, 1) for size in smaller),
    ]


@lru_cache(maxsize=256)  # asked at every step of decoding
def splits_that_fill(lines: int, blocks: int, at_once: int) -> int:
    """Into how many pieces to split the keys so that the GPU is busy to the end.

    Programs run in waves of `at_once`; a last wave of a few programs takes as long as a full one.
    More splits than needed cost memory traffic, so the fewest that come within 5% of the best.

    Args:
        lines: programs without a split, sequences times key heads.
        blocks: tiles of keys in a line, the most that it can be split into.
        at_once: programs that the GPU holds at a time.
    """

    def time(splits: int) -> float:
        tiles = -(-blocks // splits)  # the longest piece
        pieces = -(-blocks // tiles)  # those that are not empty
        return -(-lines * pieces // at_once) * tiles

    most = max(1, min(blocks, 4 * at_once // lines))
    times = {splits: time(splits) for splits in range(1, most + 1)}
    return min(splits for splits, took in times.items() if took <= 1.05 * min(times.values()))


# --- the choice ----------------------------------------------------------------------------------


def choose(
    which: str,
    run: Callable[[Any], None],
    q: torch.Tensor,
    k: torch.Tensor,
    mask: Mask | None,
    tma: bool,
    config: AnyConfig | None = None,
) -> None:
    """Run once, with the given config, the one chosen before, or the fastest of the candidates.

    Args:
        which: "forward" or "backward".
        run: launches the pass with a config.
        q: queries, [B, H, Tq, D].
        k: keys, [B, Hkv, Tk, D].
        mask: the rule.
        tma: whether TMA can fetch the tensors.
        config: what to use; chosen if not given.

    Raises:
        RuntimeError: if no candidate fits the device.
    """
    if config is not None:
        run(config)
        return
    kind = call_kind(which, q, k, mask, tma)
    if kind not in CHOSEN:
        tried = candidates(which, capability_of(q.device), q.shape[3], q.dtype, tma)
        if capability_of(q.device) is None or k.shape[2] < TUNE_FROM:
            CHOSEN[kind] = first_that_fits(tried, run)
        else:
            TRIED[kind] = _remembered(kind, tried, lambda: _times(which, tried, run))
            CHOSEN[kind] = _fastest(TRIED[kind])
    run(CHOSEN[kind])


def choose_decode(
    run: Callable[[Config], None], q: torch.Tensor, k: torch.Tensor, block_k: int | None
) -> None:
    """Run the decoding kernel with the first tile that fits, which is remembered."""
    rows = max(16, power_of_two(q.shape[1] // k.shape[1] * q.shape[2]))
    kind = ("decode", str(q.device), q.dtype, q.shape[3], rows, block_k)
    if kind in CHOSEN:
        run(CHOSEN[kind])
        return
    cores = q.dtype != torch.float32
    tried = decode_candidates(rows, q.shape[3], block_k, tensor_cores=cores)
    CHOSEN[kind] = first_that_fits(tried, run)


def call_kind(
    which: str, q: torch.Tensor, k: torch.Tensor, mask: Mask | None, tma: bool
) -> tuple[Any, ...]:
    """All that may change which tile is the fastest; lengths and counts to the next power of two.

    (pass, device, dtype, D, mode, queries, keys, sequences times heads, heads that share keys,
    whether the same bits are wanted, whether TMA can be used).
    """
    batch, heads, n_queries, D = q.shape
    device = torch.cuda.get_device_name(q.device) if q.is_cuda else "cpu"
    long = k.shape[2] >= TUNE_FROM  # else nothing is tried, and one choice will do
    sizes = [power_of_two(n) if long else 0 for n in (n_queries, k.shape[2], batch * heads)]
    same_bits = torch.are_deterministic_algorithms_enabled()
    group = heads // k.shape[1]
    return (which, device, str(q.dtype), D, mode_of(mask), *sizes, group, same_bits, tma)


def capability_of(device: torch.device) -> tuple[int, int] | None:
    """The compute capability of a GPU that Triton compiles for; None for its interpreter."""
    if INTERPRETED or device.type != "cuda":
        return None
    return torch.cuda.get_device_capability(device)


def first_that_fits(tried: Iterable[Any], run: Callable[[Any], None]) -> Any:
    """Run the first config that works here; the order says what to prefer."""
    reasons = []
    for config in tried:
        reason = _reason_against(config, run)
        if reason is None:
            return config
        reasons.append(reason)
    raise RuntimeError(f"{_NOTHING_FITS} ({'; '.join(reasons)})")


def _fastest(tried: Mapping[AnyConfig, float | str]) -> AnyConfig:
    """The config with the smallest time."""
    times = {config: found for config, found in tried.items() if isinstance(found, float)}
    if not times:
        raise RuntimeError(f"{_NOTHING_FITS} ({'; '.join(map(str, tried.values()))})")
    return min(times, key=times.__getitem__)


def _remembered(
    kind: tuple[Any, ...],
    tried: Sequence[AnyConfig],
    measure: Callable[[], dict[AnyConfig, float | str]],
) -> dict[AnyConfig, float | str]:
    """What `measure` found, now or in an earlier process, with the same kernels and versions.

    The file lies where Triton keeps its compiled kernels (TRITON_CACHE_DIR, or ~/.triton/cache).
    """
    code = [file.read_text("utf-8") for file in sorted(Path(__file__).parent.glob("triton_*.py"))]
    known_by = (triton.__version__, torch.version.cuda, code, kind, list(map(str, tried)))
    cache = get_cache_manager(hashlib.sha256(repr(known_by).encode()).hexdigest())
    if file := cache.get_file("course_lib_tiles.json"):
        return dict(zip(tried, json.loads(Path(file).read_text("utf-8")), strict=True))
    found = measure()
    cache.put(json.dumps(list(found.values())), "course_lib_tiles.json", binary=False)
    return found


def _times(
    which: str,
    tried: Sequence[AnyConfig],
    run: Callable[[Any], None],
    repeats: int = 5,
    launches: int = 3,
) -> dict[AnyConfig, float | str]:
    """Median milliseconds of each config by CUDA events, or why it does not work.

    The GPU first sleeps for about a millisecond, in which Python queues all launches: short
    kernels would else be told apart by the time to launch them.
    """
    found: dict[AnyConfig, float | str] = {}
    for config in tqdm(tried, desc=f"compiling and timing the {which} kernels", leave=False):
        reason = _reason_against(config, run)
        if reason is not None:
            found[config] = reason
            continue
        times = []
        for _ in range(repeats):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(2_000_000)
            begin.record()
            for _ in range(launches):
                run(config)
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) / launches)
        found[config] = sorted(times)[repeats // 2]
    return found


def _reason_against(config: AnyConfig, run: Callable[[Any], None]) -> str | None:
    """Why a config does not work on this device or with this compiler; None if it does.

    Only what is known before a kernel starts counts; a failure of a running kernel is an error.
    """
    try:
        run(config)
    except (errors.OutOfResources, errors.PTXASError, triton.CompilationError) as error:
        return (str(error).splitlines() or [type(error).__name__])[0][:100]
    except RuntimeError as error:
        if "PassManager" not in str(error):
            raise
        return str(error)[:100]
    return None
