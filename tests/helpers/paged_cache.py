"""The smallest cache in blocks, as servers keep them: each sequence has a length of its own.

It shows that the interface of `course_lib.cache` has room for one. All layers share a `Schedule`.
"""

import torch
from torch import Tensor

from course_lib.cache import Cache

BLOCK = 2


class Schedule:
    """Which blocks of the pool each sequence has, and how many words it gets in the next pass."""

    def __init__(self, batch: int, blocks: int) -> None:
        self.lengths, self.new = [0] * batch, [0] * batch
        self.free = list(torch.randperm(blocks, generator=torch.Generator().manual_seed(0)))
        self.tables: list[list[int]] = [[] for _ in range(batch)]

    def plan(self, new: list[int]) -> None:
        """The next pass brings so many words to each sequence; take the blocks they need."""
        self.new = new
        for table, length, n in zip(self.tables, self.lengths, new, strict=True):
            while len(table) * BLOCK < length + n:
                table.append(int(self.free.pop()))

    def slots(self, sequence: int, end: int) -> Tensor:
        """Where positions 0..end-1 of a sequence lie in the pool."""
        at = torch.arange(end)
        return (
            torch.tensor(self.tables[sequence], dtype=torch.long)[at // BLOCK] * BLOCK + at % BLOCK
        )


class PagedCache(Cache):
    """Keys and values of one layer in a pool of blocks."""

    def __init__(self, schedule: Schedule, blocks: int) -> None:
        super().__init__()
        self.schedule, self.blocks = schedule, blocks

    def next_positions(self, n: int) -> Tensor:
        """[B, n]; -1 where a sequence gets fewer words."""
        s = self.schedule
        rows = zip(s.lengths, s.new, strict=True)
        return torch.tensor([[a + i if i < new else -1 for i in range(n)] for a, new in rows])

    def positions_after(self, n: int) -> Tensor:
        """[B, S]; -1 where a sequence is shorter."""
        s = self.schedule
        ends = [a + new for a, new in zip(s.lengths, s.new, strict=True)]
        return torch.tensor([[i if i < end else -1 for i in range(max(ends))] for end in ends])

    def write(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Into the slots of the sequences' blocks; all that they hold comes back, [B, G, S, D]."""
        if self._k is None:
            self._k = k.new_zeros(self.blocks * BLOCK, k.shape[1], k.shape[3])  # [slots, G, D]
            self._v = v.new_zeros(self.blocks * BLOCK, v.shape[1], v.shape[3])
        s, total = self.schedule, self.positions_after(k.shape[2]).shape[1]
        gather = torch.zeros(len(k), total, dtype=torch.long)  # [B, S]
        for b, (length, new) in enumerate(zip(s.lengths, s.new, strict=True)):
            slots = s.slots(b, length + new)
            gather[b, : length + new] = slots
            self._k[slots[length:]] = k[b, :, :new].transpose(0, 1)
            self._v[slots[length:]] = v[b, :, :new].transpose(0, 1)
        return self._k[gather].transpose(1, 2), self._v[gather].transpose(1, 2)

    def commit(self, n: int) -> None:
        """The longest sequence counts; the last layer moves the lengths of all."""
        lengths = [a + new for a, new in zip(self.schedule.lengths, self.schedule.new, strict=True)]
        self.length = max(lengths)
        if self is self.schedule.last:
            self.schedule.lengths, self.schedule.new = lengths, [0] * len(lengths)


def paged_caches(layers: int, batch: int, blocks: int = 64) -> tuple[Schedule, list[Cache]]:
    """One cache a layer, and the schedule that they share."""
    schedule = Schedule(batch, blocks)
    caches = [PagedCache(schedule, blocks) for _ in range(layers)]
    schedule.last = caches[-1]
    return schedule, caches
