"""What attention costs on a GPU, level by level: bytes, operations, and which of them is the limit.

Counted, not measured (chapter 7): operations and bytes from `course_lib.costs`, sizes and rates
from the makers' documents. Each gives a time below which no kernel can be; the largest is the
bound. What nobody documents (the rate of L2 but on an A100) is left open rather than guessed.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from course_lib.costs import attention_flops, tile_bytes
from course_lib.validate import check_count


@dataclass(frozen=True)
class Gpu:
    """A GPU by its documents.

    Attributes:
        name: as in its data sheet.
        capability: compute capability.
        processors: streaming multiprocessors.
        clock: boost clock, Hz.
        peak: operations a second of the matrix units, 16-bit numbers, without sparsity.
        peak_float32: the same in float32 without rounding, which has no matrix units.
        memory: bytes of HBM (GDDR6 on a T4).
        memory_rate: bytes a second from it.
        l2: bytes of L2.
        l2_rate: bytes a second from L2 to the processors; None where the maker does not say.
        shared: most bytes of shared memory that one program can have.
        source: where the numbers stand.
    """

    name: str
    capability: tuple[int, int]
    processors: int
    clock: float
    peak: float
    peak_float32: float
    memory: float
    memory_rate: float
    l2: float
    l2_rate: float | None
    shared: int
    source: str

    @property
    def ridge(self) -> float:
        """Operations a byte from which on memory is no longer the limit, in 16-bit types."""
        return self.peak / self.memory_rate

    @property
    def shared_rate(self) -> float:
        """Bytes a second from all shared memories: 32 banks of 4 bytes a clock and processor.

        NVIDIA, CUDA C++ programming guide, "Shared Memory" of compute capability 5.x, to which the
        later ones refer.
        """
        return self.processors * 128 * self.clock

    @property
    def registers(self) -> int:
        """Bytes of all registers: 65,536 of 4 bytes a processor (same guide, table of features)."""
        return self.processors * 65_536 * 4


_GB, _MB, _KB = 1e9, 2**20, 2**10
#: T4: data sheet and Turing white paper (TU104: 40 processors, 4 MB L2). A100: data sheet (SXM,
#: 80 GB) and white paper (40 MB L2, 5,120 bytes a clock, "2.3 times that of V100"). H100: data
#: sheet (SXM) and white paper (132 processors, 50 MB L2; the peak is that of 1.83 GHz). H200: data
#: sheet; the same processor with other memory.
GPUS: Mapping[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        Gpu("T4", (7, 5), 40, 1.59e9, 65e12, 8.1e12, 16 * _GB, 320 * _GB, 4 * _MB, None,
            64 * _KB, "NVIDIA T4 data sheet; Turing white paper, 2018"),
        Gpu("A100", (8, 0), 108, 1.41e9, 312e12, 19.5e12, 80 * _GB, 2039 * _GB, 40 * _MB,
            5120 * 1.41e9, 163 * _KB, "NVIDIA A100 data sheet; A100 white paper, 2020"),
        Gpu("H100", (9, 0), 132, 1.83e9, 989e12, 67e12, 80 * _GB, 3350 * _GB, 50 * _MB, None,
            227 * _KB, "NVIDIA H100 data sheet; H100 white paper, 2022"),
        Gpu("H200", (9, 0), 132, 1.83e9, 989e12, 67e12, 141 * _GB, 4800 * _GB, 50 * _MB, None,
            227 * _KB, "NVIDIA H200 data sheet; H100 white paper, 2022"),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Work:
    """One attention layer in one pass, forward.

    Attributes:
        n_queries: new positions of each sequence; 1 and the draft when decoding.
        cached: keys that were there before.
        head_dim: numbers a head.
        heads: query heads.
        kv_heads: heads with keys and values of their own, a divisor of `heads`.
        batch: sequences.
        bytes_per_value: 2 in 16-bit types, 4 in float32.
        block_q: rows a program; when heads of a group share a program (decoding), rows are
            queries times heads of the group.
        block_k: keys a tile.
        grouped: whether the heads of a group are rows of one tile, so that keys are fetched once
            for all of them, as Flash-Decoding does.
    """

    n_queries: int
    cached: int = 0
    head_dim: int = 128
    heads: int = 32
    kv_heads: int = 8
    batch: int = 1
    bytes_per_value: int = 2
    block_q: int = 128
    block_k: int = 128
    grouped: bool = False

    def __post_init__(self) -> None:
        """Refuse sizes that no kernel has."""
        for name in ("head_dim", "heads", "kv_heads", "batch", "bytes_per_value", "block_q",
                     "block_k", "n_queries"):  # fmt: skip
            check_count(name, getattr(self, name), 1)
        check_count("cached", self.cached, 0)
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads: expected a divisor of {self.heads}; got {self.kv_heads}")


@dataclass(frozen=True)
class Ledger:
    """The account of some work on a GPU.

    Attributes:
        operations: of the two products, causal.
        bytes: from "HBM" at least (each number once), from "L2" (a program's own fetches), and
            read in "shared memory"; both of the last by tiles.
        seconds: the least time that each takes, by name; "arithmetic" for the operations.
        bound: the name of the largest.
        programs: blocks of rows, of all heads and sequences.
        splits: pieces of the keys that would be needed to give every processor a program.
        fits_l2: whether the keys and values of what runs at one time fit in L2, so that what L2
            hands out does not come from HBM again.
    """

    operations: int
    bytes: Mapping[str, int]
    seconds: Mapping[str, float]
    bound: str
    programs: int
    splits: int
    fits_l2: bool

    def intensity(self, level: str) -> float:
        """Operations for each byte of a level: its place on the roofline."""
        return self.operations / self.bytes[level]


def ledger(gpu: Gpu, work: Work) -> Ledger:
    """Count what causal attention must do and move, and what that takes at the documented rates.

    Shared memory is counted for matrix instructions that read keys and values from it once for 64
    rows (Hopper's) or 16 (those of a warp, before).
    """
    d, size = work.head_dim, work.bytes_per_value
    queries, keys = work.n_queries, work.cached + work.n_queries
    operations = attention_flops(
        queries, d, work.heads, work.batch, causal=True, cached=work.cached
    )
    one_head = 2 * keys * d * size  # keys and values
    hbm = work.batch * (2 * queries * d * size * work.heads + one_head * work.kv_heads)
    group = work.heads // work.kv_heads if work.grouped else 1
    lines, rows = work.heads // group * work.batch, queries * group
    # Heads that are rows of one tile see the same keys: as one head of fewer, longer blocks.
    block = max(1, work.block_q // group)
    l2 = tile_bytes(queries, d, block, lines, 1, size, cached=work.cached)
    l2 += 2 * queries * d * size * (work.heads * work.batch - lines)
    fetched = l2 - 2 * queries * d * size * work.heads * work.batch  # of keys and values
    rows_a_read = 64 if gpu.capability >= (9, 0) else 16
    shared = fetched * max(1, -(-min(work.block_q, rows) // rows_a_read))
    moved = {"HBM": hbm, "L2": l2, "shared memory": shared}
    rates = {"HBM": gpu.memory_rate, "L2": gpu.l2_rate, "shared memory": gpu.shared_rate}
    seconds = {level: moved[level] / rate for level, rate in rates.items() if rate is not None}
    seconds["arithmetic"] = operations / (gpu.peak if size < 4 else gpu.peak_float32)
    programs = -(-rows // work.block_q) * lines
    at_once = min(programs, gpu.processors)
    kv_lines = -(-at_once * work.kv_heads * work.batch // max(programs, 1))
    return Ledger(
        operations=operations,
        bytes=moved,
        seconds=seconds,
        bound=max(seconds, key=seconds.__getitem__),
        programs=programs,
        splits=max(1, min(-(-gpu.processors // programs), -(-keys // work.block_k))),
        fits_l2=max(1, kv_lines) * one_head <= gpu.l2,
    )
