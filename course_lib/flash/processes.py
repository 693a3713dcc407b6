"""Run one function in several processes that can talk to each other (appendix C).

`torchrun` starts scripts; this starts a function, from a notebook too, and hands back what each
rank returns. It is meant for one machine and the gloo backend.
"""

import multiprocessing
import os
import pickle
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from course_lib.validate import check_count


def launch(
    function: Callable[..., Any], world: int, *arguments: Any, timeout: float = 300
) -> list[Any]:
    """Call `function(rank, world, *arguments)` in `world` new processes, joined by gloo.

    The processes are started afresh ("spawn"), so `function` must be importable: it stands in a
    module, not in a notebook cell. Each uses one thread. Starting one costs about what importing
    torch does.

    Args:
        function: what to run; its arguments and its result must be picklable (prefer NumPy).
        world: number of processes.
        arguments: passed on.
        timeout: seconds after which all are ended.

    Returns:
        What each rank returned, in the order of the ranks.

    Raises:
        ValueError: if `function` cannot be imported by the new processes.
        RuntimeError: if a rank failed; the message holds its traceback.
        TimeoutError: if it took too long.
    """
    check_count("world", world, 1)
    if getattr(function, "__module__", "__main__") == "__main__":
        raise ValueError(
            "function: expected one from an importable module, because the new processes import "
            "it; got one defined in a notebook cell or script"
        )
    context = multiprocessing.get_context("spawn")
    processes: list[BaseProcess] = []
    ends: list[Connection] = []
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        try:
            for rank in range(world):
                ours, theirs = context.Pipe(duplex=False)
                job = (theirs, function, rank, world, str(store), arguments)
                process = context.Process(target=_rank_main, args=job, daemon=True)
                process.start()
                theirs.close()
                processes.append(process)
                ends.append(ours)
            return _collect(ends, timeout)
        finally:
            for started in processes:
                started.join(timeout=5 if sys.exc_info()[0] is None else 0)
                if started.is_alive():
                    started.kill()
                    started.join()


def _collect(ends: list[Connection], timeout: float) -> list[Any]:
    """The result of each rank; the first failure ends the wait."""
    deadline = time.monotonic() + timeout
    results: dict[int, Any] = {}
    while len(results) < len(ends):
        waiting = [end for rank, end in enumerate(ends) if rank not in results]
        ready = wait(waiting, timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            late = [rank for rank in range(len(ends)) if rank not in results]
            raise TimeoutError(f"ranks {late} did not finish in {timeout:g} seconds")
        for rank, end in enumerate(ends):
            if end not in ready:
                continue
            try:
                fine, value = pickle.loads(end.recv_bytes())
            except EOFError:
                fine, value = False, "the process ended without a word"
            if not fine:
                raise RuntimeError(f"rank {rank} failed:\n{value}")
            results[rank] = value
    return [results[rank] for rank in range(len(ends))]


def _rank_main(
    end: Connection,
    function: Callable[..., Any],
    rank: int,
    world: int,
    store: str,
    arguments: tuple[Any, ...],
) -> None:
    """The life of one process."""
    try:
        torch.set_num_threads(1)
        if sys.platform in ("linux", "darwin"):  # a laptop's own name may lead nowhere
            loopback = "lo" if sys.platform == "linux" else "lo0"
            os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
        meeting = dist.FileStore(store, world)  # type: ignore[attr-defined]
        dist.init_process_group("gloo", store=meeting, rank=rank, world_size=world)
        answer = True, function(rank, world, *arguments)
        dist.barrier()  # nobody leaves while a neighbour still talks to it
        dist.destroy_process_group()
    except BaseException:
        answer = False, traceback.format_exc()
    end.send_bytes(pickle.dumps(answer))
    end.close()
