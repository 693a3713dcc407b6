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

from course_lib.checks.script import Call, Callback, Case
from course_tools.sandbox.backends import Backend, worker_env
from course_tools.sandbox.cgroups import Limits, SandboxError
from course_tools.sandbox.session import Session
from course_tools.sandbox.staging import python_folders, staging_dir

#: Small, so that the test of the limits is quick.
LIMITS = Limits(memory_mb=512, processes=40, disk_mb=16)
_WRITTEN = "course-canary-written"
_MORE_MEMORY, _MORE_PROCESSES = 768, 80

_PROBE = '''
import ctypes, os, socket, sys

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

def readable(files):
    return those(files, lambda file: open(file, "rb").read(1))

def written(folders):
    return those(folders, lambda folder: open(folder + "/course-canary-written", "w").write("x"))

def renamed():
    """Folders on the way to this Python that can be renamed."""
    ways = {str(p) for place in sys.path for p in __import__("pathlib").Path(place).parents}
    return those(ways - {"/"}, lambda folder: os.rename(folder, folder + "-canary"))

def writable():
    """Files that exist and can be written to, outside the scratch folder."""
    harmless = ("null", "zero", "full", "random", "urandom", "tty", "ptmx")
    try:
        lines = [line.split() for line in open("/proc/self/mountinfo")]
        places = [line[4] for line in lines if "rw" in line[5].split(",")]
    except OSError:
        places = ["/"]
    found = []
    for place in places:
        for where, folders, files in os.walk(place):
            folders[:] = [f for f in folders if not f.isdigit() and f != os.environ["HOME"][1:]]
            found += [f"{where}/{f}" for f in files if os.access(f"{where}/{f}", os.W_OK)]
    home = os.environ["HOME"] + "/"
    found = [f for f in found if not f.startswith(home) and not os.path.islink(f)]
    return [f for f in found if not (f.startswith("/dev/") and f.endswith(harmless))]

def connected(port, name):
    """Which of the grader's listeners can be reached."""
    places = {"AF_INET": ("127.0.0.1", port), "AF_UNIX": name}
    return those(places, lambda kind: socket.socket(getattr(socket, kind)).connect(places[kind]))

def sent(name):
    """Whether a pair of datagram sockets sends to a name that is not its own."""
    kinds = (socket.SOCK_DGRAM, socket.SOCK_SEQPACKET, socket.SOCK_STREAM)
    return those(kinds, lambda kind: socket.socketpair(type=kind)[0].sendto(b"x", name))

def namespaces():
    """Whether a user namespace can be made, in which everybody is root."""
    libc, number = ctypes.CDLL(None), {"x86_64": 56}.get(os.uname().machine, 220)
    user = 0x10000000
    if libc.unshare(user) == 0:
        return True
    process = libc.syscall(number, user | 17, 0, 0, 0, 0)
    if process == 0:
        os._exit(0)
    return process > 0

def owner(look):
    """Who we are outside, as the grader sees it."""
    return look(os.getpid())

def signalled(process):
    return those([process], lambda number: os.kill(number, 9))

def alive(process):
    return those([process], lambda number: os.kill(number, 0)) != []

def leave():
    """Leave a file at the bottom of very many folders."""
    try:
        for _ in range(1200):
            os.mkdir("deep")
            os.chdir("deep")
        open("left", "w").write("x")
        os.chmod(".", 0)
    except OSError:
        pass

def left():
    return os.listdir(os.environ["HOME"])

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
    mailbox: socket.socket
    process: "subprocess.Popen[bytes]"


def failures(backend: Backend, closed: Sequence[Path]) -> list[str]:
    """What a submission can do here that it must not; nothing if the back end keeps its word.

    Args:
        backend: that is not `missing`.
        closed: folders that submissions must not be able to read.
    """
    try:
        with _bait(closed) as bait, staging_dir() as stage:
            with Session(backend, stage, {"look": lambda: _owner_of}, LIMITS) as session:
                found = [*_reached(session, bait, closed), *_stayed(session), *_took(session)]
            if bait.process.poll() is not None:
                found.append("it ended a process of the grader")
            return found
    except SandboxError as error:
        return [str(error)]


def _reached(session: Session, bait: _Bait, closed: Sequence[Path]) -> Iterator[str]:
    for file in _ask(session, "readable", bait.files) or []:
        yield f"it read {file}"
    known = {*worker_env(LIMITS, 0, 0), "COURSE_CHROOT", "COURSE_STAGE"}
    seen = _ask(session, "variables")
    for name in sorted({*(seen or [])} - known - {"PWD", "SHLVL", "_", "OLDPWD", "LC_CTYPE"}):
        yield f"it saw the environment variable {name}"
    if seen is None:
        yield "it gives no answer"
    for kind in _ask(session, "connected", bait.port, bait.name) or []:
        yield f"it reached a listener of the grader ({kind})"
    if _ask(session, "sent", bait.name + "-mailbox") or _has_mail(bait.mailbox):
        yield "it sent to a socket of the grader"
    _ask(session, "signalled", bait.process.pid)
    places = ["/", "/usr", "/etc", "/dev", "/dev/shm", "/var/tmp", "/stage", sys.prefix]
    for folder in _ask(session, "written", [*places, *map(str, closed)]) or []:
        Path(folder, _WRITTEN).unlink(missing_ok=True)
        yield f"it wrote to {folder}"
    for file in (_ask(session, "writable") or [])[:5]:
        yield f"it may write to {file}"
    for folder in _ask(session, "renamed") or []:
        yield f"it renamed {folder}, on the way to Python"
    if _ask(session, "owner", Callback("look")) == 0:
        yield "it is root outside"
    if _ask(session, "namespaces") is True:
        yield "it made a user namespace"


def _stayed(session: Session) -> Iterator[str]:
    process = _ask(session, "daemon")
    if process is None or _ask(session, "alive", process) is not False:
        yield "a process outlived its exercise"
    _ask(session, "leave")
    if _ask(session, "left") != []:
        yield "a file outlived its exercise"


def _took(session: Session) -> Iterator[str]:
    count = _ask(session, "children", _MORE_PROCESSES)
    if count is not None and count >= LIMITS.processes:
        yield f"it started {count} processes; {LIMITS.processes} are allowed"
    if _ask(session, "memory", _MORE_MEMORY) is True:
        yield f"it took {_MORE_MEMORY} MB of memory; {LIMITS.memory_mb} are allowed"


def _ask(session: Session, name: str, *args: Any) -> Any:
    """What a function of the probe gives, or None."""
    outcome = session.run("0.0", name, _PROBE, [Case([Call(args)], seconds=20)])[0]
    return outcome.values[0] if outcome.problem is None and outcome.values else None


def _owner_of(process: Any) -> int:
    """The user of a process by its number in its own namespace: the one that it may be."""
    users = [-1]
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError, ValueError, KeyError):
            lines = dict(line.split(":", 1) for line in status.read_text("utf-8").splitlines())
            if int(lines["NSpid"].split()[-1]) == int(process):
                users.append(int(lines["Uid"].split()[0]))
    return 0 if 0 in users and users.count(0) == len(users) - 1 else max(users)


def _has_mail(mailbox: socket.socket) -> bool:
    with contextlib.suppress(OSError):
        return bool(mailbox.recv(1))
    return False


@contextlib.contextmanager
def _bait(closed: Sequence[Path]) -> Iterator[_Bait]:
    """Files of the closed folders, listeners and a process; the latter end with the block."""
    with contextlib.ExitStack() as stack:
        files = [str(file) for folder in closed for file in _some_files(folder)]
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        name = f"\0course-canary-{os.getpid()}"
        local = stack.enter_context(socket.socket(socket.AF_UNIX))
        mailbox = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        mailbox.setblocking(False)
        if sys.platform == "linux":
            local.bind(name)
            local.listen()
            mailbox.bind(name + "-mailbox")
        process = stack.enter_context(_victim())
        yield _Bait(files, tcp.getsockname()[1], name, mailbox, process)


def _some_files(folder: Path) -> list[Path]:
    """A few files of a folder; none of Python's, which may be read. Nothing is written."""
    python = python_folders()
    with contextlib.suppress(OSError):
        near = [*folder.glob("*"), *folder.glob("*/*")]
        return [f for f in near if f.is_file() and not any(map(f.is_relative_to, python))][:3]
    return []


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
