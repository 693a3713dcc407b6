"""What each process of appendix C runs: its part of a sequence, forward and backward.

It stands in a module of its own because new processes import what they run. `launch` starts it:

    launch(one_rank, 4, q, k, v, do, ("zigzag", "contiguous"))
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from course_lib.flash.ring import Split, Work, positions, ring_attention

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Part:
    """What one rank computed for one split.

    Attributes:
        split: how the sequence was cut.
        positions: the rows that the rank owns.
        o: its rows of the output, [B, H, T / W, D].
        dq: its rows of the gradient of the queries.
        dk: its rows of the gradient of the keys.
        dv: its rows of the gradient of the values.
        work: of the last repeat, forward and backward.
    """

    split: Split
    positions: NDArray[np.int64]
    o: Array
    dq: Array
    dk: Array
    dv: Array
    work: Work


def one_rank(
    rank: int,
    world: int,
    q: Array,
    k: Array,
    v: Array,
    do: Array,
    splits: Sequence[Split] = ("zigzag", "contiguous"),
    repeats: int = 1,
) -> list[Part]:
    """Cut out this rank's rows and run ring attention on them, once a split and repeat.

    The whole q, k, v [B, H, T, D] come in only to be cut; a real program would load its part.
    """
    parts = []
    for split in splits:
        at = positions(rank, world, q.shape[2], split)
        for _ in range(repeats):
            local = [torch.from_numpy(x[:, :, at]).requires_grad_() for x in (q, k, v)]
            dist.barrier()  # all start together, so that waiting means waiting for work
            work = Work()
            o = ring_attention(*local, split=split, work=work)
            gradients = torch.autograd.grad(o, local, torch.from_numpy(do[:, :, at]))
        dq, dk, dv = (g.numpy() for g in gradients)
        parts.append(Part(split, at, o.detach().numpy(), dq, dk, dv, work))
    return parts
