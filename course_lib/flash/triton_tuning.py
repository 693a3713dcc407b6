"""Which tiles the Triton kernels use: what may be tried on a GPU, and what is chosen (chapter 7).

The best tile depends on the size of a head, the dtype, the mask, the amount of work and the GPU, so
on a GPU the candidates are timed once for each kind of call. This module imports triton; without a
GPU, TRITON_INTERPRET=1 must be set before that.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
from triton.runtime import errors

from course_lib.flash.triton_forward import CAUSAL, FULL, TILES, forward_kernel
from course_lib.masks import Mask
from course_lib.validate import check_count

#: Whether the kernels run in Triton's interpreter (decided when they were defined).
INTERPRETED = not isinstance(forward_kernel, triton.JITFunction)
#: Log-sum-exps are stored in lines of a multiple of this, so that no load of them needs a mask;
#: so no tile may be longer.
LINE = 128
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
        dq_atomic: the keys kernel adds dQ to memory itself (backward).
    """

    block_q: int
    block_k: int
    warps: int = 4
    stages: int = 2
    tma: bool = False
    dq_atomic: bool = False

    def __post_init__(self) -> None:
        for name in ("block_q", "block_k"):
            check_tile(name, getattr(self, name))
        if check_count("warps", self.warps, 1) not in (1, 2, 4, 8, 16, 32):
            raise ValueError(f"warps: expected a power of two of at most 32; got {self.warps}")
        check_count("stages", self.stages, 1)


#: What was chosen for (pass, device, dtype, head dimension, and what else matters): see `choose`.
CHOSEN: dict[tuple, Config] = {}
#: What was tried for it: median milliseconds, or why it does not work here.
TRIED: dict[tuple, dict[Config, float | str]] = {}
#: Try all candidates on a GPU from this many keys on; below, the first that fits is taken.
TUNE_FROM = 1024


def choose(
    which: str,
    run: Callable[[Config], None],
    q: torch.Tensor,
    k: torch.Tensor,
    mask: Mask | None,
    config: Config | None = None,
) -> Config:
    """Run once, with the given config, the one chosen before, or the fastest of the candidates.

    Raises:
        RuntimeError: if no candidate fits the device.
    """
    if config is not None:
        run(config)
        return config
    capability = torch.cuda.get_device_capability(q.device) if q.is_cuda else None
    n_keys, D = k.shape[2], q.shape[3]
    size = n_keys.bit_length() if n_keys >= TUNE_FROM else 0
    same_bits = torch.are_deterministic_algorithms_enabled()
    key = (which, str(q.device), q.dtype, D, mode_of(mask), size, same_bits)
    if key not in CHOSEN:
        tried = candidates(which, capability, D, q.dtype)
        if size and q.is_cuda:
            TRIED[key] = _times(tried, run)
            CHOSEN[key] = _fastest(TRIED[key])
        else:
            CHOSEN[key] = first_that_fits(tried, run)
    run(CHOSEN[key])
    return CHOSEN[key]


def choose_decode(
    run: Callable[[Config], None], q: torch.Tensor, k: torch.Tensor, block_k: int | None
) -> None:
    """Run the decoding kernel with the first tile that fits, which is remembered."""
    rows = max(16, power_of_two(q.shape[1] // k.shape[1] * q.shape[2]))
    key = ("decode", str(q.device), q.dtype, q.shape[3], rows, block_k)
    if key in CHOSEN:
        run(CHOSEN[key])
        return
    capability = torch.cuda.get_device_capability(q.device) if q.is_cuda else None
    cores = has_tensor_cores(capability, q.dtype)
    CHOSEN[key] = first_that_fits(
        decode_candidates(rows, q.shape[3], block_k, tensor_cores=cores), run
    )


def candidates(
    which: str, capability: tuple[int, int] | None, D: int, dtype: torch.dtype
) -> list[Config]:
    """Tile sizes worth trying, the safest guess first.

    Args:
        which: "forward" or "backward".
        capability: of the device; None for the interpreter.
        D: head dimension.
        dtype: of the inputs.
    """
    if capability is None:
        return [Config(16, 16)] if which == "forward" else [Config(16, 32)]
    table = _FORWARD if which == "forward" else _BACKWARD
    size = "float32" if dtype == torch.float32 else "small" if D <= 64 else "large"
    major = max(7, min(capability[0], 9))
    found = list(table[major, size])
    if capability[0] > 9:  # some of these have less than half of Hopper's fast memory
        found += [config for config in table[8, size] if config not in found]
    if torch.are_deterministic_algorithms_enabled():
        found = [config for config in found if not config.dq_atomic]
    return found


def decode_candidates(
    rows: int, D: int, block_k: int | None = None, *, tensor_cores: bool = True
) -> list[Config]:
    """Tiles of the decoding kernel, the one to prefer first; `rows` stands for its queries.

    Fast memory ranges from 64 KB (T4) to 227 KB (Hopper), so the list goes down to almost none.
    Without tensor cores each thread multiplies for itself, out of its registers: a tile that is
    too large for them spills kilobytes a thread, so tiles are small and share more threads.
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


def has_tensor_cores(capability: tuple[int, int] | None, dtype: torch.dtype) -> bool:
    """Whether products run on matrix units: not in float32, and for Triton not before 8.0."""
    return dtype != torch.float32 and (capability is None or capability[0] >= 8)


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


def mode_of(mask: Mask | None) -> int:
    """FULL or CAUSAL where the kernel can do without lists, else TILES."""
    if mask is None or mask.is_full:
        return FULL
    return CAUSAL if mask.is_causal else TILES


def _configs(*rows: tuple[int, int, int, int, str]) -> tuple[Config, ...]:
    return tuple(
        Config(q, k, w, n, tma="tma" in how, dq_atomic="atomic" in how) for q, k, w, n, how in rows
    )


#: (block_q, block_k, warps, stages, options) by compute capability and size. The order is a guess
#: from what the compiler reports without a device (registers, spills, shared memory). On Hopper:
#: - 8 warps are two groups that multiply by turns; 4 warps want two or three programs a processor;
#: - with 2 stages the next tile is fetched during the second product only, with 3 during a whole
#:   step, so 8 warps, alone on their processor, want 3;
#: - 128 x 128 with 4 warps leaves the assembler so few registers that matrix instructions wait
#:   for each other; 128 x 64 is as much as fits.
#: Without tensor cores (float32, and everything before 8.0) a tile lives in registers: 8 warps
#: where 4 would spill hundreds of bytes a thread.
_FORWARD: dict[tuple[int, str], tuple[Config, ...]] = {
    (9, "large"): _configs(
        (128, 128, 8, 3, "tma"), (128, 64, 4, 2, "tma"), (64, 64, 4, 3, "tma"),
        (128, 64, 8, 3, "tma"), (128, 128, 8, 2, "tma"), (128, 64, 8, 3, ""), (64, 64, 4, 3, ""),
    ),
    (9, "small"): _configs(
        (64, 128, 4, 2, "tma"), (128, 64, 4, 3, "tma"), (128, 128, 8, 3, "tma"),
        (64, 128, 4, 3, "tma"), (64, 64, 4, 3, "tma"), (128, 64, 4, 3, ""), (64, 64, 4, 3, ""),
    ),
    (9, "float32"): _configs((32, 32, 4, 1, ""), (16, 32, 4, 1, "")),
    (8, "large"): _configs(
        (128, 32, 4, 3, ""), (64, 64, 4, 2, ""), (128, 64, 8, 2, ""), (64, 32, 4, 2, "")
    ),
    (8, "small"): _configs((128, 64, 4, 3, ""), (64, 64, 4, 3, ""), (128, 32, 4, 3, "")),
    (8, "float32"): _configs((32, 32, 4, 1, ""), (16, 32, 4, 1, "")),
    (7, "large"): _configs((32, 32, 8, 1, ""), (16, 32, 4, 1, ""), (16, 32, 2, 1, "")),
    (7, "small"): _configs((32, 32, 4, 1, ""), (16, 32, 4, 1, "")),
    (7, "float32"): _configs((32, 32, 4, 1, ""), (16, 16, 2, 1, "")),
}  # fmt: skip
#: For dK and dV, whose block of keys stays; for dQ the two sides swap.
_BACKWARD: dict[tuple[int, str], tuple[Config, ...]] = {
    (9, "large"): _configs(
        (64, 128, 8, 2, "tma"), (64, 128, 8, 3, "tma"), (64, 64, 4, 2, "tma"),
        (32, 128, 8, 3, "tma"), (64, 128, 8, 2, "tma atomic"), (32, 64, 4, 2, ""),
    ),
    (9, "small"): _configs(
        (64, 128, 8, 2, "tma"), (64, 64, 4, 2, "tma"), (64, 128, 8, 3, "tma"),
        (64, 128, 8, 2, "tma atomic"), (64, 64, 4, 2, ""),
    ),
    (9, "float32"): _configs((32, 32, 8, 1, ""), (16, 32, 8, 1, ""), (16, 32, 4, 1, "")),
    (8, "large"): _configs(
        (32, 64, 4, 2, ""), (32, 128, 8, 2, ""), (32, 64, 4, 1, ""), (32, 32, 4, 1, "")
    ),
    (8, "small"): _configs((32, 128, 4, 2, ""), (64, 64, 4, 2, ""), (32, 64, 4, 2, "")),
    (8, "float32"): _configs((32, 32, 8, 1, ""), (16, 32, 8, 1, ""), (16, 32, 4, 1, "")),
    (7, "large"): _configs((16, 32, 8, 1, ""), (16, 16, 4, 1, ""), (16, 16, 2, 1, "")),
    (7, "small"): _configs((32, 32, 8, 1, ""), (16, 32, 8, 1, ""), (16, 32, 4, 1, "")),
    (7, "float32"): _configs((16, 16, 4, 1, ""),),
}  # fmt: skip


def first_that_fits(tried: Iterable[Config], run: Callable[[Config], None]) -> Config:
    """Run the first config that works here; the order says what to prefer."""
    reasons = []
    for config in tried:
        reason = _reason_against(config, run)
        if reason is None:
            return config
        reasons.append(reason)
    raise RuntimeError(f"{_NOTHING_FITS} ({'; '.join(reasons)})")


def _fastest(tried: Mapping[Config, float | str]) -> Config:
    """The config with the smallest time."""
    times = {config: found for config, found in tried.items() if isinstance(found, float)}
    if not times:
        raise RuntimeError(f"{_NOTHING_FITS} ({'; '.join(map(str, tried.values()))})")
    return min(times, key=times.__getitem__)


def _times(
    tried: Iterable[Config], run: Callable[[Config], None], repeats: int = 5, launches: int = 3
) -> dict[Config, float | str]:
    """Median milliseconds of each config by CUDA events, or why it does not work.

    The GPU first sleeps for about a millisecond, in which Python queues all launches: short
    kernels would else be told apart by the time to launch them.
    """
    found: dict[Config, float | str] = {}
    for config in tried:
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


def _reason_against(config: Config, run: Callable[[Config], None]) -> str | None:
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
