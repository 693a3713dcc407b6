"""Where a stranger's code runs: back ends that start `child` with nothing to read or reach.

- `Bubblewrap`: own namespaces for processes, network, users, mounts; the disk is Python, NumPy and
  torch, read-only, and a small folder in memory. Needs the program `bwrap` (0.8 or newer).
- `SeparateUser`: a user of its own in a jail with hard limits, for containers that forbid
  namespaces; needs root. What it does not promise stands in docs/teaching/grading.md.
- `Unsafe`: no isolation; for a teacher's own files.

Memory and processes are limited by a cgroup where one can be made, else by rlimits, which every
report says. `choose` runs the self-test of each back end and refuses if none passes.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from course_tools.sandbox import chroot

#: Modules that the sandbox needs, by their path in the repository; all else stays outside.
_STAGED = tuple(f"course_lib/checks/{name}.py" for name in ("blame", "run", "script"))
_STAGED += tuple(
    f"course_tools/sandbox/inside/{name}.py"
    for name in ("__init__", "worker", "shared_arguments", "wire")
)
_ROOT = Path(__file__).parents[2]
#: The user inside: nobody in a user namespace; a free range of numbers for `SeparateUser`.
_NOBODY, _FIRST_USER, _USERS = 65534, 61_000, 4_000
_ENVIRONMENT = {
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PATH": "/usr/bin:/bin",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0",
    "TRITON_INTERPRET": "1",
}


#: Joins the cgroups whose files come first among the arguments, then becomes the command. If it
#: cannot join them all, it ends: what follows would run without limits.
_ENTER = (
    'n=$1; shift; while [ "$n" -gt 0 ]; do echo $$ > "$1" || exit 97; shift; n=$((n - 1)); done; '
    'exec "$@"'
)


class SandboxError(RuntimeError):
    """No sandbox can be had; the message says what to install or allow."""


@dataclass(frozen=True)
class Limits:
    """What one submission may use.

    Attributes:
        memory_mb: memory of all its processes together.
        processes: processes and threads at once.
        disk_mb: its temporary folder.
    """

    memory_mb: int = 2048
    processes: int = 128
    disk_mb: int = 64


class Started:
    """A running sandbox.

    Args:
        process: its first process; what it says on standard error is why a start failed.
        line: our end of the socket to `child`.
        group: its cgroup, or None.
        user: number of its user if its processes have to be ended one by one.
    """

    def __init__(
        self,
        process: "subprocess.Popen[bytes]",
        line: socket.socket,
        group: "Cgroup | None",
        user: int | None = None,
    ) -> None:
        self.process, self.line, self.group, self.user = process, line, group, user

    def complaint(self) -> str:
        """What a start that failed wrote; call it after `stop`."""
        return self._said

    _said = ""

    def ready(self) -> None:
        """A stranger's code runs from now on: nothing is read any more but the line."""
        if self.process.stderr is not None:
            self.process.stderr.close()

    def stop(self) -> None:
        """End everything in it. Safe to call twice."""
        self.line.close()
        if self.process.returncode is None:  # else its number may be another's by now
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        if self.user is not None:
            _end_user(self.user)
        if self.group is not None:
            self.group.remove()
            self.group = None
        errors = self.process.stderr
        if errors is not None and not errors.closed:
            os.set_blocking(errors.fileno(), False)
            self._said = (errors.read(2000) or b"").decode(errors="replace").strip()
            errors.close()


class Backend(ABC):
    """A way to run code that nobody trusts.

    Attributes:
        name: for reports.
        promise: what it stands for, in a sentence for reports.
        limits_note: how memory and processes are limited here, for reports; set by `choose`.
    """

    name: str
    promise: str
    limits_note: str = "not tested"

    @abstractmethod
    def missing(self) -> str | None:
        """Why it cannot be used here, or None."""

    @abstractmethod
    def command(self, stage: Path, limits: Limits, line: int) -> list[str]:
        """The command that starts `child` from the folder `stage`; `line` is its socket."""

    def start(self, stage: Path, limits: Limits, slot: int = 0) -> Started:
        """Start `child`.

        Args:
            stage: as from `staged`.
            limits: of the submission.
            slot: number of the worker, so that two never share a user.

        Raises:
            SandboxError: if it cannot be started.
        """
        group = Cgroup.make(limits)
        files = [] if group is None else [str(f / "cgroup.procs") for f in group.folders]
        enter = ["/bin/sh", "-c", _ENTER, "sh", str(len(files)), *files]
        ours, theirs = socket.socketpair()
        try:
            user = self.user(slot)
            process = subprocess.Popen(
                [*enter, *self.command(stage, limits, theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                # Not the grader's own: /proc/1/environ would show it.
                env=self.environment(stage, slot, limits, theirs.fileno()),
                cwd="/",
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        except BaseException as error:
            ours.close()
            if group is not None:
                group.remove()
            if isinstance(error, (OSError, ValueError)):
                raise SandboxError(f"the sandbox did not start: {error}") from None
            raise
        finally:
            theirs.close()
        return Started(process, ours, group, user)

    def environment(self, stage: Path, slot: int, limits: Limits, line: int) -> dict[str, str]:
        """The environment of the started program."""
        return {}

    def user(self, slot: int) -> int | None:
        """The user whose processes `stop` has to end, if there is one."""
        return None

    def close(self) -> None:
        """Remove what the back end made for all its sandboxes."""
        return None


class Bubblewrap(Backend):
    """Namespaces by bubblewrap."""

    name = "bubblewrap"
    promise = (
        "no network, no files but Python's, no other process in sight; everything ends with the "
        "submission"
    )

    def missing(self) -> str | None:
        """Whether `bwrap` is there and may make namespaces."""
        if shutil.which("bwrap") is None:
            return "bubblewrap is not installed (Debian, Ubuntu: sudo apt install bubblewrap)"
        command = [*self._walls(Limits()), "--", sys.executable, "-I", "-c", "print('in')"]
        tried = subprocess.run(command, env={}, capture_output=True, text=True, check=False)
        if tried.stdout.strip() != "in":
            return (
                "bubblewrap cannot make namespaces here (it needs version 0.8 or newer; a "
                "container must allow them, for example docker run --security-opt "
                "seccomp=unconfined --cap-add SYS_ADMIN; Ubuntu 24.04 an AppArmor profile for "
                f"bwrap): {tried.stderr.strip()[:200]}"
            )
        return None

    def command(self, stage: Path, limits: Limits, line: int) -> list[str]:
        """See `Backend.command`."""
        shown = ["--ro-bind", str(stage), "/stage", "--setenv", "COURSE_LINE", str(line)]
        return [*self._walls(limits, shown), "--", sys.executable, "-I", "/stage/start.py"]

    def _walls(self, limits: Limits, shown: Sequence[str] = ()) -> list[str]:
        shown = list(shown)
        for folder in python_folders():
            shown += ["--ro-bind", str(folder), str(folder)]
        for link in ("/lib", "/lib64", "/bin"):
            target = Path(link)
            if target.is_symlink():
                shown += ["--symlink", str(target.readlink()), link]
            elif target.is_dir():
                shown += ["--ro-bind", link, link]
        variables: list[str] = []
        for name, value in {**inside(limits), "COURSE_SANDBOX_UID": str(_NOBODY)}.items():
            variables += ["--setenv", name, value]
        return [
            shutil.which("bwrap") or "bwrap",
            *("--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent"),
            *("--new-session", "--clearenv", "--cap-drop", "ALL"),
            *("--uid", str(_NOBODY), "--gid", str(_NOBODY), "--hostname", "sandbox"),
            *("--proc", "/proc", "--dev", "/dev"),
            *("--size", str(limits.disk_mb * 10**6), "--tmpfs", "/tmp"),
            *shown,  # after the empty /tmp, which Python may live under
            *("--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp"),
            *variables,
        ]


class SeparateUser(Backend):
    """A user of its own in a folder of its own (chroot) with hard limits; needs root."""

    name = "separate user"
    promise = (
        "another user, locked into a folder that holds Python and nothing else and cannot be "
        "written to, without sockets, with hard limits; the list of processes and the kernel are "
        "shared with the grader's machine, and a grader that is killed by force may leave a "
        "process of that user behind until the next run"
    )

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jails: dict[Path, Path] = {}
        self._locks: dict[int, tuple[int, int]] = {}

    def missing(self) -> str | None:
        """Whether we are root on a POSIX system and may change the root folder."""
        if not hasattr(os, "geteuid") or os.geteuid() != 0:
            return "the separate user needs the grader to run as root (in a container, say)"
        code = f"import os; os.chroot('/'); os.setgroups([]); os.setuid({_FIRST_USER})"
        tried = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, check=False)
        if tried.returncode != 0:
            return "the separate user needs the right to chroot and to change the user"
        return None

    def command(self, stage: Path, limits: Limits, line: int) -> list[str]:
        """See `Backend.command`."""
        return [sys.executable, "-I", str(stage / "start.py")]

    def environment(self, stage: Path, slot: int, limits: Limits, line: int) -> dict[str, str]:
        """See `Backend.environment`."""
        with self._lock:
            if stage not in self._jails:
                self._jails[stage] = chroot.build(stage)
                weakref.finalize(self, shutil.rmtree, self._jails[stage], ignore_errors=True)
        own = {"COURSE_SANDBOX_UID": str(self.user(slot)), "COURSE_LINE": str(line)}
        return {
            **inside(limits), **own, "COURSE_JAIL": str(self._jails[stage]),
            "COURSE_STAGE": "/stage",
        }  # fmt: skip

    def user(self, slot: int) -> int:
        """A user number that no account should have and no other grader uses now."""
        with self._lock:
            if slot not in self._locks:
                self._locks[slot] = _lock_user()
                _end_user(self._locks[slot][0])  # left behind by a grader that was killed
            return self._locks[slot][0]

    def close(self) -> None:
        """Remove the jails and let go of the users."""
        with self._lock:
            for folder in self._jails.values():
                shutil.rmtree(folder, ignore_errors=True)
            for _, descriptor in self._locks.values():
                os.close(descriptor)
            self._jails, self._locks = {}, {}


class Unsafe(Backend):
    """No isolation at all: for a teacher's own files, and labelled so everywhere."""

    name = "unsafe"
    promise = "none: submissions ran with the grader's rights"
    limits_note = "limits of each process only, which hostile code can get around"

    def missing(self) -> str | None:
        """It can always be used."""
        return None

    def command(self, stage: Path, limits: Limits, line: int) -> list[str]:
        """See `Backend.command`."""
        return [sys.executable, "-I", str(stage / "start.py")]

    def environment(self, stage: Path, slot: int, limits: Limits, line: int) -> dict[str, str]:
        """See `Backend.environment`."""
        return {**inside(limits), "COURSE_UNSAFE": "1", "COURSE_LINE": str(line)}


def choose(unsafe: bool, *closed: Path) -> Backend:
    """The strongest back end that passes its self-test here.

    Args:
        unsafe: take `Unsafe` instead, without any test.
        closed: folders that submissions must not be able to read, such as the teacher's; the home
            folder is one of them anyway.

    Raises:
        SandboxError: if none passes; the message says what to install or allow.
    """
    if unsafe:
        return Unsafe()
    from course_tools.sandbox.selftest import failures  # it needs this module

    reasons = []
    for backend in (Bubblewrap(), SeparateUser()):
        wrong = backend.missing()
        if wrong is None:
            found = failures(backend, [Path.home(), *closed])
            if not found:
                backend.limits_note = Cgroup.kind()
                for reason in reasons:
                    print(f"not used {reason}", file=sys.stderr)
                return backend
            wrong = f"its self-test failed ({'; '.join(found)})"
        backend.close()
        reasons.append(f"- {backend.name}: {wrong}")
    raise SandboxError(
        "submissions are strangers' programs, and none of the ways to lock them in works here:\n"
        + "\n".join(reasons)
        + "\nTo grade files that you trust without any protection, add --unsafe."
    )


def inside(limits: Limits) -> dict[str, str]:
    """The environment that the sandboxed program sees."""
    limit = {
        "COURSE_MEMORY": str(limits.memory_mb * 10**6),
        "COURSE_PROCESSES": str(limits.processes),
    }
    return {**_ENVIRONMENT, **limit}


# --- folders -------------------------------------------------------------------------------------


def python_folders() -> list[Path]:
    """Folders that hold this Python, its packages and the system's libraries."""
    wanted = [Path("/usr"), Path(sys.base_prefix), Path(sys.prefix)]
    wanted += [Path("/etc/ld.so.cache")]
    real: list[Path] = []
    for folder in (p for p in wanted if p.exists()):
        if not any(folder.is_relative_to(one) for one in real):
            real.append(folder)
    return real


@contextlib.contextmanager
def staged() -> Iterator[Path]:
    """A folder with the few modules that the sandbox needs, readable by any user."""
    for old in Path(tempfile.gettempdir()).glob("course-stage-*-*"):  # of graders that were killed
        owner = old.name.split("-")[2]
        if owner.isdigit() and Path("/proc/self").exists() and not Path("/proc", owner).exists():
            shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"course-stage-{os.getpid()}-"))
    try:
        for name in _STAGED:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(_ROOT / name, target)
        for part in ("course_lib", "course_lib/checks", "course_tools", "course_tools/sandbox"):
            (folder / part / "__init__.py").write_text("", "utf-8")
        served = folder / "course_lib" / "checks" / "served.py"
        served.write_text("REGISTER = {}  # the grader answers\n", "utf-8")
        start = Path(__file__).parent / "inside" / "start.py"
        shutil.copyfile(start, folder / "start.py")
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# --- cgroups -------------------------------------------------------------------------------------

_GROUP = "course-"
#: Files with limits on memory of version 2 and of version 1, in the order in which they shrink.
_MEMORY_LIMITS = ("memory.max", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes")


class Cgroup:
    """A group with limits on memory and processes (version 1 or 2), one a sandbox.

    Args:
        folders: its folders, one a controller.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folders)
        self._wide: dict[Path, str] | None = None

    def narrow(self, room: int | None) -> None:
        """Limit memory to what is in use now and so much more, then as at the beginning again.

        Pages of files do not count as in use: the kernel can drop them.

        Args:
            room: bytes; None for the limits that the group was made with.

        Raises:
            OSError: if the kernel refuses.
        """
        files = [f / name for f in self.folders for name in _MEMORY_LIMITS if (f / name).exists()]
        if self._wide is None:
            self._wide = {file: file.read_text("utf-8").strip() for file in files}
        if room is None:
            for file in reversed(files):  # memory with swap cannot be less than memory
                file.write_text(self._wide[file], "utf-8")
            return
        most = memory_in_use(files[0].parent) + room
        for file in files:
            file.write_text(str(most), "utf-8")

    @classmethod
    def make(cls, limits: Limits) -> "Cgroup | None":
        """A new group, or None where none can be made."""
        name = f"{_GROUP}{os.getpid()}-{uuid.uuid4().hex[:12]}"
        for maker in (cls._version_2, cls._version_1):
            made: list[Path] = []
            try:
                maker(name, limits, made)
                return cls(made)
            except (OSError, KeyError, ValueError):
                for folder in made:
                    with contextlib.suppress(OSError):
                        folder.rmdir()
        return None

    @classmethod
    def kind(cls) -> str:
        """How memory and processes are limited here, in words for reports."""
        group = cls.make(Limits())
        if group is None:
            return (
                "memory and processes are limited by rlimits only, which is weaker: each process "
                "has the limit, not all together"
            )
        group.remove()
        version = 1 if len(group.folders) > 1 else 2
        return f"memory and processes are limited by a control group (cgroup v{version})"

    @staticmethod
    def _version_2(name: str, limits: Limits, made: list[Path]) -> None:
        root = Path("/sys/fs/cgroup")
        own = root / Path("/proc/self/cgroup").read_text("utf-8").rpartition("::")[2].strip("/\n")
        places = dict.fromkeys((own, own.parent if own != root else root, root))
        for base in places:  # a group that holds processes itself can have no groups with limits
            with contextlib.suppress(OSError):
                ready = (base / "cgroup.subtree_control").read_text("utf-8").split()
                if {"memory", "pids"} <= set(ready):
                    folder = base / name
                    folder.mkdir()
                    made.append(folder)
                    (folder / "memory.max").write_text(str(limits.memory_mb * 10**6), "utf-8")
                    (folder / "pids.max").write_text(str(limits.processes), "utf-8")
                    with contextlib.suppress(OSError):
                        (folder / "memory.swap.max").write_text("0", "utf-8")
                    _sweep(base)
                    return
        raise OSError("the controllers for memory and pids are not delegated")

    @staticmethod
    def _version_1(name: str, limits: Limits, made: list[Path]) -> None:
        own = dict(
            line.split(":", 2)[1:]
            for line in Path("/proc/self/cgroup").read_text("utf-8").splitlines()
        )
        most = limits.memory_mb * 10**6
        settings = {
            "memory": (("memory.limit_in_bytes", most), ("memory.memsw.limit_in_bytes", most)),
            "pids": (("pids.max", limits.processes),),
        }
        for controller, pairs in settings.items():
            base = Path("/sys/fs/cgroup", controller, own[controller].strip("/"))
            if not base.is_dir():  # the container sees its own group as the root
                base = Path("/sys/fs/cgroup", controller)
            folder = base / name
            folder.mkdir()
            made.append(folder)
            for file, value in pairs:
                if (folder / file).exists() or "memsw" not in file:
                    (folder / file).write_text(str(value), "utf-8")
            _sweep(base)

    def remove(self) -> None:
        """End what is left in it and remove it."""
        for folder in self.folders:
            for attempt in range(500):
                with contextlib.suppress(OSError, ValueError):
                    for line in (folder / "cgroup.procs").read_text("utf-8").split():
                        os.kill(int(line), signal.SIGKILL)
                try:
                    folder.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.002 if attempt < 50 else 0.02)


def memory_in_use(folder: Path) -> int:
    """Bytes that a group holds, without pages of files that lie on a disk.

    Args:
        folder: of a group of version 1 or 2 with the controller for memory.
    """
    lines = (folder / "memory.stat").read_text("utf-8").splitlines()
    stat = {name: int(number) for name, number in (line.split() for line in lines)}
    files = ("memory.current", "memory.usage_in_bytes")
    used = next(f for name in files if (f := folder / name).exists())
    cached = stat.get("file", stat.get("cache", 0)) - stat.get("shmem", 0)
    return int(used.read_text("utf-8")) - cached


def _sweep(base: Path) -> None:
    """Remove empty groups of graders that were killed."""
    for old in base.glob(f"{_GROUP}*-*"):
        owner = old.name.removeprefix(_GROUP).partition("-")[0]
        if owner.isdigit() and not Path("/proc", owner).exists():
            with contextlib.suppress(OSError):
                old.rmdir()  # only an empty one can be removed


# --- users ---------------------------------------------------------------------------------------


def _lock_user() -> tuple[int, int]:
    """A user number that no other grader uses, and the descriptor that holds it."""
    import fcntl

    for user in range(_FIRST_USER, _FIRST_USER + _USERS):
        file = Path(tempfile.gettempdir(), f"course-user-{user}.lock")
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(file, flags, 0o600)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return user, descriptor
        except OSError:
            os.close(descriptor)
    raise SandboxError("no free user number is left")


def _end_user(user: int) -> None:
    """End every process of a user: a process of that user signals all it may signal."""
    if not _FIRST_USER <= user < _FIRST_USER + _USERS:
        raise ValueError(f"user: expected a sandbox's; got {user}")
    code = f"import os; os.setgroups([]); os.setgid({user}); os.setuid({user}); os.kill(-1, 9)"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, check=False)
