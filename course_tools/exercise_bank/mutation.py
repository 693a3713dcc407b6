"""Whether the hidden checks reject small changes to each solution (`mutants`).

Run it with `python -m course_tools.exercise_bank.mutation [--chapter N] [--exercise 5.2]`. Each
mutant is graded in a child process of its own with limits on time and memory. Mutants that cannot
be told from the solution by anyone are argued one by one in `solutions/equivalent.toml`.
"""

import argparse
import multiprocessing
import os
import random
import signal
import sys
import time
import tomllib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from course_tools.exercise_bank.evaluate import can_grade, evaluate
from course_tools.exercise_bank.load import Bank, load_bank, run_source
from course_tools.exercise_bank.mutants import Mutant, added_lines, mutants, normal_form
from course_tools.project import load_project

#: Wall-clock seconds and bytes of address space beyond the parent's that one mutant may take.
SECONDS = 30.0
MEMORY = 4 * 2**30


@dataclass(frozen=True)
class MutantResult:
    """What the hidden checks said: `killed_by` is None if they accepted the mutant."""

    mutant: Mutant
    killed_by: str | None
    seconds: float


def run_mutants(
    bank: Bank, todo: Sequence[Mutant], seed: int = 0, jobs: int = 2, seconds: float = SECONDS
) -> list[MutantResult]:
    """Grade mutants, each in a forked child with limits.

    Args:
        bank: the exercises.
        todo: the mutants.
        seed: of the hidden inputs.
        jobs: children at a time.
        seconds: wall-clock limit of each; a mutant that takes longer counts as rejected.

    Returns:
        One result a mutant, in order.
    """
    torch.set_num_threads(1)  # a fork must not inherit a pool of threads
    fork = multiprocessing.get_context("fork")
    waiting = list(enumerate(todo))[::-1]
    running: dict[Connection, tuple[int, Any, float]] = {}
    results: dict[int, MutantResult] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            place, mutant = waiting.pop()
            mine, theirs = fork.Pipe(duplex=False)
            child = fork.Process(target=_child, args=(bank, mutant, seed, theirs), daemon=True)
            child.start()
            theirs.close()
            running[mine] = (place, child, time.monotonic())
        ready = wait(list(running), timeout=0.2)
        for connection, (place, child, start) in list(running.items()):
            late = time.monotonic() - start > seconds
            if connection not in ready and not late:
                continue
            killed_by = _received(connection) if connection in ready else "too slow"
            if late:
                os.kill(child.pid, signal.SIGKILL)
            child.join()
            connection.close()
            del running[connection]
            spent = time.monotonic() - start
            results[place] = MutantResult(todo[place], killed_by, spent)
    return [results[i] for i in range(len(todo))]


def _received(connection: Connection) -> str | None:
    try:
        return connection.recv()
    except EOFError:
        return "its process died"


def _child(bank: Bank, mutant: Mutant, seed: int, answer_to: Connection) -> None:
    _limit_memory()
    warnings.simplefilter("ignore")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    answer_to.send(_killed_by(bank, mutant, seed))
    answer_to.close()
    os._exit(0)


def _killed_by(bank: Bank, mutant: Mutant, seed: int) -> str | None:
    facts = bank.exercises[mutant.exercise]
    try:
        source = f"{facts.imports}\n{mutant.source}"
        answer = run_source(source, facts.answer, f"<mutant {mutant.exercise}>")
    except BaseException as error:
        return f"does not load: {type(error).__name__}"
    results = evaluate(answer, bank.hidden[mutant.exercise], seed, stop_at_first=True)
    claim, wrong = results[-1]
    return None if wrong is None else f"{claim.says}: {wrong}"


def _limit_memory() -> None:
    try:
        import resource

        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    except (ImportError, OSError, ValueError):
        pass


# --- the command ---------------------------------------------------------------------------------


def equivalents(root: Path) -> dict[str, dict[str, str]]:
    """Exercise -> changed text of an equivalent mutant -> the argument why it is one."""
    file = root / "solutions" / "equivalent.toml"
    entries = tomllib.loads(file.read_text("utf-8")).get("mutant", []) if file.is_file() else []
    found: dict[str, dict[str, str]] = {}
    for entry in entries:
        found.setdefault(entry["exercise"], {})[_key(entry["becomes"])] = entry["why"]
    return found


def is_equivalent(mutant: Mutant, whole: str, known: dict[str, dict[str, str]]) -> bool:
    """Whether `equivalent.toml` argues for this mutant: by the lines that its change adds."""
    return _key(added_lines(whole, mutant.source)) in known.get(mutant.exercise, {})


def _key(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def all_mutants(bank: Bank) -> list[Mutant]:
    """The mutants of every loaded exercise that has hidden checks and can be graded here."""
    return [
        mutant
        for number, facts in bank.exercises.items()
        if number in bank.hidden and can_grade(bank.hidden[number])
        for mutant in mutants(number, facts.source, facts.answer)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run mutants and print the score of every exercise; 1 if one survives without an argument."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chapter", type=int, action="append")
    parser.add_argument("--exercise", action="append", help="for example 5.2")
    parser.add_argument("--sample", type=int, help="so many mutants of each exercise only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args(arguments)
    root = load_project().root
    bank = load_bank(root, options.chapter)
    todo = [m for m in all_mutants(bank) if not options.exercise or m.exercise in options.exercise]
    if options.sample:
        todo = sample(todo, options.sample, options.seed)
    results = run_mutants(bank, todo, options.seed, options.jobs)
    survivors = report(bank, results)
    return 1 if survivors else 0


def sample(todo: Sequence[Mutant], each: int, seed: int) -> list[Mutant]:
    """A seeded sample, so many of each exercise."""
    chance = random.Random(seed)
    by_exercise: dict[str, list[Mutant]] = {}
    for mutant in todo:
        by_exercise.setdefault(mutant.exercise, []).append(mutant)
    return [
        m for found in by_exercise.values() for m in chance.sample(found, min(each, len(found)))
    ]


def report(bank: Bank, results: Sequence[MutantResult]) -> list[MutantResult]:
    """Print a line an exercise and the survivors' differences; returns the unargued survivors."""
    known = equivalents(bank.root)
    survivors: list[MutantResult] = []
    for number in dict.fromkeys(r.mutant.exercise for r in results):
        mine = [r for r in results if r.mutant.exercise == number]
        whole = normal_form(bank.exercises[number].source)
        alive = [r for r in mine if r.killed_by is None]
        argued = [r for r in alive if is_equivalent(r.mutant, whole, known)]
        unargued = [r for r in alive if r not in argued]
        survivors += unargued
        score = 1 - len(unargued) / max(1, len(mine) - len(argued))
        spent = sum(r.seconds for r in mine)
        print(
            f"{number}: {score:.1%} of {len(mine) - len(argued)} mutants rejected, "
            f"{len(argued)} argued equivalent ({spent:.1f} s)"
        )
        for result in unargued:
            print(f"  survives, {result.mutant.change}")
            for line in added_lines(whole, result.mutant.source).splitlines():
                print(f"    {line}")
    return survivors


if __name__ == "__main__":
    sys.exit(main())
