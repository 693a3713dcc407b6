"""What a back end must show before it is trusted: a submission that tries to break out of it.

`choose` runs it before any student's code. Every attempt that gets through is a sentence;
a back end with a sentence is not used.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_lib.checks.script import Call, Case
from course_tools.sandbox.backends import Backend, sandbox_env
from course_tools.sandbox.cgroups import Limits, SandboxError
from course_tools.sandbox.session import Session
from course_tools.sandbox.staging import staging_dir

#: Small, so that the test of the limits is quick.
LIMITS = Limits(memory_mb=512, processes=40, disk_mb=16)
_WRITTEN = "course-canary-written"
_MORE_MEMORY, _MORE_PROCESSES = 768, 80

_PROBE = '''
import os, socket

def those(things, attempt):
    """The things for which an attempt succeeds."""
    found = []
    for thing in things:
        try:
            attempt(thing)
        except OSError:
            continue
        found.append(thing)
    return found

def canaries(files):
    return those(files, lambda file: open(file, "rb").read(1))

def written(folders):
    return those(folders, lambda folder: open(folder + "/course-canary-written", "w").write("x"))

def connected(port, name):
    """Which of the grader's listeners can be reached."""
    places = {"AF_INET": ("127.0.0.1", port), "AF_UNIX": name}
    return those(places, lambda kind: socket.socket(getattr(socket, kind)).connect(places[kind]))

def signalled(process):
    return those([process], lambda number: os.kill(number, 9))

def alive(process):
    return those([process], lambda number: os.kill(number, 0)) != []

def variables():
    """Names in all environments in sight."""
    names = set(os.environ)
    for process in os.listdir("/proc") if os.path.isdir("/proc") else []:
        try:
            with open(f"/proc/{process}/environ", "rb") as stream:
                text = stream.read().decode(errors="replace")
            names |= {line.partition("=")[0] for line in text.split(chr(0)) if line}
        except OSError:
            pass
    return sorted(names)

def daemon():
    """The number of a process that wants to stay."""
    process = os.fork()
    if process == 0:
        os.setsid()
        while True:
            import time
            time.sleep(1)
    return process

def children(wanted):
    """How many processes can be had at once."""
    made = 0
    for _ in range(wanted):
        try:
            if os.fork() == 0:
                import time
                time.sleep(20)
                os._exit(0)
        except OSError:
            return made
        made += 1
    return made

def memory(megabytes):
    """Whether so much memory can be had."""
    kept = []
    try:
        for _ in range(megabytes // 32):
            kept.append(bytearray(os.urandom(1 << 20)) * 32)
    except MemoryError:
        return False
    return True
'''


@dataclass
class _Bait:
    """What a submission must not reach."""

    files: list[str]
    port: int
    name: str
    process: "subprocess.Popen[bytes]"


def failures(backend: Backend, closed: Sequence[Path]) -> list[str]:
    """What a submission can do here that it must not; nothing if the back end keeps its word.

    Args:
        backend: that is not `missing`.
        closed: folders that submissions must not be able to read.
    """
    try:
        with _bait(closed) as bait, staging_dir() as stage:
            with Session(backend, stage, {}, LIMITS) as session:
                found = list(_attempts(session, bait, closed, backend))
            if bait.process.poll() is not None:
                found.append("it ended a process of the grader")
            return found
    except SandboxError as error:
        return [str(error)]


def _attempts(
    session: Session, bait: _Bait, closed: Sequence[Path], backend: Backend
) -> Iterator[str]:
    for file in _ask(session, "canaries", bait.files) or []:
        yield f"it read {file}"
    known = {
        *sandbox_env(LIMITS),
        "COURSE_SANDBOX_UID",
        "COURSE_LINE",
        "COURSE_CHROOT",
        "COURSE_STAGE",
    }
    seen = _ask(session, "variables")
    for name in sorted({*(seen or [])} - known - {"PWD", "SHLVL", "_", "OLDPWD", "LC_CTYPE"}):
        yield f"it saw the environment variable {name}"
    if seen is None:
        yield "it gives no answer"
    for kind in _ask(session, "connected", bait.port, bait.name) or []:
        yield f"it reached a listener of the grader ({kind})"
    _ask(session, "signalled", bait.process.pid)
    places = ["/", "/usr", "/etc", "/dev", "/dev/shm", "/var/tmp", "/stage", sys.prefix]
    for folder in _ask(session, "written", [*places, *map(str, closed)]) or []:
        Path(folder, _WRITTEN).unlink(missing_ok=True)
        yield f"it wrote to {folder}"
    left = _ask(session, "daemon")
    if left is None or _ask(session, "alive", left) is not False:
        yield "a process outlived its exercise"
    count = _ask(session, "children", _MORE_PROCESSES)
    if count is not None and count >= LIMITS.processes:
        yield f"it started {count} processes; {LIMITS.processes} are allowed"
    if _ask(session, "memory", _MORE_MEMORY) is True:
        yield f"it took {_MORE_MEMORY} MB of memory; {LIMITS.memory_mb} are allowed"


def _ask(session: Session, name: str, *args: Any) -> Any:
    """What a function of the probe gives, or None."""
    outcome = session.run("0.0", name, _PROBE, [Case([Call(args)], seconds=10)])[0]
    return outcome.values[0] if outcome.problem is None and outcome.values else None


@contextlib.contextmanager
def _bait(closed: Sequence[Path]) -> Iterator[_Bait]:
    """Canaries in the closed folders, two listeners, and a process; all end with the block."""
    with contextlib.ExitStack() as stack:
        files = [str(file) for folder in closed for file in _canaries(folder, stack)]
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        name = f"\0course-canary-{os.getpid()}"
        local = stack.enter_context(socket.socket(socket.AF_UNIX))
        if sys.platform == "linux":
            local.bind(name)
            local.listen()
        process = stack.enter_context(_victim())
        yield _Bait(files, tcp.getsockname()[1], name, process)


def _canaries(folder: Path, stack: contextlib.ExitStack) -> Iterator[Path]:
    """A file of ours in a folder, or one that is there if we may not write."""
    if not folder.is_dir():
        return
    canary = folder / f".course-canary-{os.getpid()}"
    try:
        canary.write_bytes(b"x")
        canary.chmod(0o644)
    except OSError:
        yield from [path for path in folder.iterdir() if path.is_file()][:1]
    else:
        stack.callback(canary.unlink, missing_ok=True)
        yield canary


@contextlib.contextmanager
def _victim() -> Iterator["subprocess.Popen[bytes]"]:
    """A process with a number that no small sandbox has itself."""
    started: list[subprocess.Popen[bytes]] = []
    try:
        while not started or (started[-1].pid < 200 and len(started) < 200):
            started.append(subprocess.Popen([shutil.which("sleep") or "sleep", "300"]))
        yield started[-1]
    finally:
        for process in started:
            process.kill()
            process.wait()
