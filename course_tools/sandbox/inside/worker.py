"""What runs inside the sandbox: it gets inputs and sends back plain values (no secrets here).

The first process (`main`) imports NumPy and torch once and never runs a student's line. For each
exercise it forks one that does, carries bytes between it and the grader without reading them,
and kills whatever is left when the exercise is over. Its socket to the grader is closed in the
fork and cannot be reached through /proc or ptrace. An envelope is one letter, a length, bytes:

    grader to sandbox:  R a frame: prepare this answer;  C a frame: its scripts, run them;
                        D bytes for it;  K stop it
    sandbox to grader:  S ready;  P prepared;  D bytes from it;  E it has ended, with JSON: the
                        arguments that it changed (`shared_arguments`), and whether all else that
                        it left is gone
"""

import contextlib
import ctypes
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NoReturn, cast

import torch

from course_lib.checks.error_location import error_location
from course_lib.checks.run import run_script, run_source
from course_lib.checks.script import Call, Callback, Case, Outcome, Problem, to_plain
from course_tools.sandbox.inside import wire
from course_tools.sandbox.inside.replay import AbsentError, answer_at, put_course_lib
from course_tools.sandbox.inside.shared_arguments import Scripts, SharedMemory, Steps

_CHUNK = 1 << 16
#: Bytes from the grader that an exercise may leave unread; one that never reads is ended.
_MOST_WAITING = 64 * 10**6
#: What one exercise may use besides memory and processes: bytes a file, open files, core dumps.
_LIMITS = {
    resource.RLIMIT_FSIZE: 32 * 10**6,
    resource.RLIMIT_NOFILE: 256,
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_MEMLOCK: 0,
}
#: Entries of the scratch folder that a task may leave; with more the sandbox is given up.
_MOST_LEFT = 50_000
#: Seconds for each script that comes after one that was not done in time.
AFTER_LATE = 1.0


def main(line: int, sizes: int) -> None:
    """Serve the grader until it closes the line.

    Args:
        line: number of the open socket to the grader.
        sizes: number of this process's open /proc/self/statm, or -1.
    """
    torch.set_num_threads(1)
    _guard_processes()
    nowhere = _nowhere()
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    grader = socket.socket(fileno=line)
    os.set_inheritable(line, False)
    torch.compile = _as_it_is  # answers neither win nor lose by what compiling takes
    gc.freeze()  # so that no collection in a fork copies all that is here
    _send(grader, b"S", b"")
    while True:
        letter, data = _receive(grader)
        if letter == b"R":
            changed = _attend(data, grader, sizes)
            _send(grader, b"E", json.dumps([changed, _emptied(os.environ["HOME"])]).encode())
        elif letter == b"":
            return


def _as_it_is(model: Any = None, **_: Any) -> Any:
    return model if model is not None else _as_it_is


def _nowhere() -> int:
    try:
        return os.open(os.devnull, os.O_RDWR)
    except OSError:  # a chroot without devices
        return os.open("/", os.O_RDONLY)


def _attend(request: bytes, grader: socket.socket, sizes: int) -> list[tuple[int, str]]:
    """Fork for one exercise and carry bytes until it ends or the grader stops it.

    Returns:
        The arguments that it changed, as `Scripts.changed` says.
    """
    task = wire.unpack(wire.reader(request), trusted=True)
    memory = SharedMemory(task["shared"], reused=task["room_mb"] is not None)
    _send(grader, b"P", b"")
    select.select([grader], [], [])  # the scripts come when the fork can be limited
    line, theirs = socket.socketpair()
    asked, asks = os.pipe()
    used = _memory_used(sizes)
    process = os.fork()
    if process == 0:
        line.close()
        grader.close()
        os.close(asked)
        if sizes >= 0:
            os.close(sizes)
        _exercise(task, theirs, asks, memory, used)
    theirs.close()
    os.close(asks)
    line.setblocking(False)
    letter, data = _receive(grader)  # after the fork, which shall not find them in its memory
    cases = wire.unpack(wire.reader(data), trusted=True)["cases"] if letter == b"C" else []
    scripts = Scripts(cases, memory)
    if letter == b"C":
        with contextlib.suppress(OSError):  # the exercise closed its end, or the grader did
            _carry(grader, line, asked, scripts)
    line.close()
    os.close(asked)
    _end(process)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process, 0)
    return scripts.changed()


def _carry(grader: socket.socket, line: socket.socket, asked: int, scripts: Scripts) -> None:
    """Bytes both ways, and calls as they are asked for; no side can make this wait for it alone.

    Args:
        grader: the grader's line.
        line: the exercise's.
        asked: where the exercise asks: b"s" begins the next script, b"c" is for a call.
        scripts: gives the calls.
    """
    waiting = bytearray()  # for the exercise, not yet taken by it
    sides: list[socket.socket | int] = [line, grader, asked]
    while len(waiting) <= _MOST_WAITING:
        ready, _, _ = select.select(sides, [line] if waiting else [], [])
        if line in ready:
            chunk = line.recv(_CHUNK)
            if not chunk:
                return
            _send(grader, b"D", chunk)  # the grader reads even while it writes
        if grader in ready:
            letter, data = _receive(grader)
            if letter != b"D":
                return
            waiting += data
        if asked in ready:
            letter = os.read(asked, 1)
            if letter == b"s":
                scripts.begin()
            elif letter == b"c":
                waiting += wire.pack({"call": scripts.call()})
            else:
                sides.remove(asked)
        if waiting:
            with contextlib.suppress(BlockingIOError):  # most often there is room at once
                del waiting[: line.send(waiting[:_CHUNK])]


def _end(process: int) -> None:
    """End the exercise and, in a sandbox, every process that it may have started."""
    if os.environ.get("COURSE_UNSAFE") == "1":
        for end in (os.killpg, os.kill):
            with contextlib.suppress(OSError):
                end(process, signal.SIGKILL)
        return
    user = os.geteuid()
    if user == 0 or os.environ.get("COURSE_SANDBOX_UID") != str(user):
        raise SystemExit("this program ends all processes it can, so it runs in a sandbox only")
    # No fork can slip through: the kernel holds its list of processes while it signals them all.
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:  # all of them are ours to reap (`_guard_processes`), and all are ending
            os.waitpid(-1, 0)


def _emptied(folder: str) -> bool:
    """Remove what a task left, however deep; False if that is too much, or something stays.

    What lies in a folder is moved up before the folder is removed, so that no path grows long.
    """
    moved = 0
    while names := _listed(folder):
        for name in names:
            path = f"{folder}/{name}"
            with contextlib.suppress(OSError):
                if not os.path.isdir(path) or os.path.islink(path):  # noqa: PTH112, PTH114
                    os.remove(path)  # noqa: PTH107
                    moved += 1
                    continue
                os.chmod(path, 0o700)  # noqa: PTH101
                for inner in os.scandir(path):
                    if inner.is_dir(follow_symlinks=False):
                        os.chmod(inner.path, 0o700)  # noqa: PTH101
                    moved += 1
                    os.rename(inner.path, f"{folder}/.{moved}.{os.getpid()}")  # noqa: PTH104
                os.rmdir(path)  # noqa: PTH106
            moved += 1
            if moved > _MOST_LEFT:
                return False
    return True


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 (names only)
    except OSError:
        return []


# --- one task, in its own process ----------------------------------------------------------------


def _exercise(
    task: dict[str, Any],
    line: socket.socket,
    asks: int,
    memory: SharedMemory,
    used: tuple[int, int],
) -> NoReturn:
    """Do a task; whatever happens, end here."""
    status = 1
    try:
        os.setpgid(0, 0)
        _limit(task["room_mb"], task["seconds"], used)
        sys.stdin = open(os.devnull)  # noqa: PTH123, SIM115 (open for the life of the process)
        del sys.argv[1:]
        os.chdir(os.environ["HOME"])
        sys.path.insert(0, os.environ["HOME"])  # as a kernel has the folder of its notebook
        _scripts(task, line, asks, memory)
        status = 0
    except BaseException:  # nothing of a student's code may pass this line
        status = 1
    finally:
        os._exit(status)


def _scripts(task: dict[str, Any], line: socket.socket, asks: int, memory: SharedMemory) -> None:
    try:
        answer = _answer_of(task)
    except BaseException as error:
        if isinstance(error, NotImplementedError):
            problem = Problem("not done", "not done yet")
        elif isinstance(error, AbsentError):
            problem = Problem("absent", str(error))
        else:
            problem = Problem("raised", error_location(error))
        outcome = Outcome(problem=problem)
        for _ in task["scripts"]:
            _answer(line, outcome)
        return

    def call() -> Call:
        os.write(asks, b"c")
        memory.next_call()
        return wire.unpack(lambda size: wire.exactly(line, size), trusted=True)["call"]

    late = False
    for count, seconds in task["scripts"]:
        os.write(asks, b"s")
        seconds = min(seconds, AFTER_LATE) if late else seconds
        calls = cast("Sequence[Call]", Steps(count, call))
        case = Case(calls, seconds=seconds, memory_mb=task["memory_mb"])
        outcome = run_script(answer, case, lambda what: _asker(what, line), memory.place)
        late |= outcome.problem is not None and outcome.problem.kind == "time"
        _answer(line, outcome)


def _answer_of(task: dict[str, Any]) -> Any:
    """The answer of a task: what its source defines, or what its notebook makes of it.

    Raises:
        NotImplementedError: if it is not there.
        AbsentError: if the notebook, replayed, has no such name.
        BaseException: what the source raises.
    """
    number, name, program = task["number"], task["name"], task["program"]
    if not isinstance(program, str):
        return answer_at([task["imports"], *program], number, name)
    put_course_lib(lambda *_, **__: None)
    space = run_source(program, f"<your answer {number}>", imports=task["imports"])
    if name not in space:
        raise NotImplementedError
    return space[name]


def _answer(line: socket.socket, outcome: Outcome) -> None:
    try:
        frame = wire.pack(replace(outcome, callbacks={}))  # the grader counts their calls
    except wire.WireError as error:
        problem = Problem("not plain", f"it returns too much or something unreadable ({error})")
        frame = wire.pack(Outcome(problem=problem))
    line.sendall(frame)


def _asker(what: Callback, line: socket.socket) -> Callable[..., Any]:
    """A function whose calls the grader answers."""

    def ask(*args: Any, **kwargs: Any) -> Any:
        line.sendall(
            wire.pack(
                {
                    "id": what.params["id"],
                    "args": list(to_plain(args)),
                    "kwargs": to_plain(kwargs),
                }
            )
        )
        reply = wire.unpack(lambda size: wire.exactly(line, size), trusted=True)
        if "error" in reply:
            raise ValueError(reply["error"])
        return reply["value"]

    return ask


# --- limits --------------------------------------------------------------------------------------


def _limit(room_mb: float | None, seconds: float, used: tuple[int, int]) -> None:
    """Hard limits, which this process cannot raise again.

    Args:
        room_mb: memory of the exercise, on top of its arguments; None for the sandbox's own limit.
        seconds: of the exercise.
        used: what this process has already; see `_memory_used`.
    """
    memory, processes = (int(os.environ[n]) for n in ("COURSE_MEMORY", "COURSE_PROCESSES"))
    if room_mb is not None:
        memory = min(memory, int(room_mb * 10**6))
    limits = _LIMITS | {resource.RLIMIT_NPROC: processes}
    limits[resource.RLIMIT_AS] = used[0] + memory
    limits[resource.RLIMIT_DATA] = used[1] + memory
    limits[resource.RLIMIT_CPU] = int(seconds) + 2
    for what, most in limits.items():
        _, hard = resource.getrlimit(what)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))


def _memory_used(sizes: int) -> tuple[int, int]:
    """Bytes of address space and of private writable memory, as RLIMIT_AS and _DATA count them."""
    if sizes < 0:  # no /proc: what Python, NumPy and torch take on a common machine
        return 1_000_000_000, 250_000_000
    pages = os.pread(sizes, 200, 0).split()
    return int(pages[0]) * resource.getpagesize(), int(pages[5]) * resource.getpagesize()


def _guard_processes() -> None:
    """Make this process unreadable for others of its user, and the parent of every orphan."""
    libc = ctypes.CDLL(None)
    libc.prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE
    libc.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


# --- bytes ---------------------------------------------------------------------------------------


def _send(line: socket.socket, letter: bytes, data: bytes) -> None:
    line.sendall(wire.ENVELOPE.pack(letter, len(data)) + data)


def _receive(grader: socket.socket) -> tuple[bytes, bytes]:
    """The next envelope from the grader; letter b"" if it has closed the line."""
    try:
        letter, size = wire.ENVELOPE.unpack(wire.exactly(grader, wire.ENVELOPE.size))
        return letter, wire.exactly(grader, size)
    except (EOFError, OSError):
        return b"", b""
