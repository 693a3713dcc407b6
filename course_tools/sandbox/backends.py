"""Where a stranger's code runs: back ends that start the worker with nothing to read or reach.

- `Bubblewrap`: own namespaces for processes, network, mounts; the disk is Python, NumPy and torch,
  read-only, and a small folder in memory. Needs the program `bwrap` (0.8 or newer). Nobody there is
  root outside: an ordinary grader has a user namespace, one that is root a user of `Users`.
- `SeparateUser`: a user of its own in a folder of its own (chroot) with hard limits, for containers
  that forbid namespaces; needs root. What it does not promise stands in docs/teaching/grading.md.
- `Unsafe`: no isolation; for a teacher's own files.

Memory and processes are limited by a cgroup where one can be made, else by rlimits, which every
report says. `choose.choose` runs the self-test of each back end and refuses if none passes.
"""

import contextlib
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from course_tools.sandbox import chroot
from course_tools.sandbox.cgroups import Cgroup, Limits, SandboxError
from course_tools.sandbox.inside.start import FORBIDDEN, SCRATCH
from course_tools.sandbox.staging import START, python_folders
from course_tools.sandbox.users import Users, end_processes

#: The user inside a user namespace.
_NOBODY = 65534
_ENVIRONMENT = {
    "HOME": SCRATCH,
    "TMPDIR": SCRATCH,
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


class Started:
    """A running sandbox.

    Args:
        process: its first process; what it says on standard error is why a start failed.
        line: our end of the socket to the worker.
        group: its cgroup, or None.
        user: number of its user if its processes have to be ended one by one.
    """

    def __init__(
        self,
        process: "subprocess.Popen[bytes]",
        line: socket.socket,
        group: Cgroup | None,
        user: int | None = None,
    ) -> None:
        self.process, self.line, self.group, self.user = process, line, group, user

    def stderr_text(self) -> str:
        """What a start that failed wrote; call it after `stop`."""
        return self._stderr

    _stderr = ""

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
            end_processes(self.user)
        if self.group is not None:
            self.group.remove()
            self.group = None
        errors = self.process.stderr
        if errors is not None and not errors.closed:
            os.set_blocking(errors.fileno(), False)
            self._stderr = (errors.read(2000) or b"").decode(errors="replace").strip()
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
    def plan(
        self, stage: Path, limits: Limits, line: int, slot: int
    ) -> tuple[list[str], dict[str, str]]:
        """The command that starts the worker, whose socket is `line`, and its environment."""

    def start(self, stage: Path, limits: Limits, slot: int = 0) -> Started:
        """Start the worker.

        Args:
            stage: as from `staging_dir`.
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
            command, environment = self.plan(stage, limits, theirs.fileno(), slot)
            process = subprocess.Popen(
                [*enter, *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                # Not the grader's own: /proc/1/environ would show it.
                env=environment,
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
        return Started(process, ours, group, self.user(slot))

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

    def __init__(self) -> None:
        self._users = Users()

    def missing(self) -> str | None:
        """Whether `bwrap` is there and may make namespaces."""
        if shutil.which("bwrap") is None:
            return "bubblewrap is not installed (Debian, Ubuntu: sudo apt install bubblewrap)"
        command = [*self._bwrap_args(Limits()), "--", sys.executable, "-I", "-c", "print('in')"]
        tried = subprocess.run(command, env={}, capture_output=True, text=True, check=False)
        if tried.stdout.strip() != "in":
            return (
                "bubblewrap cannot make namespaces here (it needs version 0.8 or newer; a "
                "container must allow them, for example docker run --security-opt "
                "seccomp=unconfined --cap-add SYS_ADMIN; Ubuntu 24.04 an AppArmor profile for "
                f"bwrap): {tried.stderr.strip()[:200]}"
            )
        return unknown_machine() if os.geteuid() == 0 else None

    def plan(
        self, stage: Path, limits: Limits, line: int, slot: int
    ) -> tuple[list[str], dict[str, str]]:
        """See `Backend.plan`."""
        user = self._users.number(slot) if os.geteuid() == 0 else _NOBODY
        shown = ["--ro-bind", str(stage), "/stage"]
        for name, value in worker_env(limits, user, line).items():
            shown += ["--setenv", name, value]
        command = [*self._bwrap_args(limits, shown), "--", sys.executable, "-I", f"/stage/{START}"]
        return command, {}

    def _bwrap_args(self, limits: Limits, shown: Sequence[str] = ()) -> list[str]:
        folders = python_folders()
        ways = dict.fromkeys(way for f in folders for way in [*f.parents][-2::-1])
        disk = [part for way in ways for part in ("--perms", "0755", "--dir", str(way))]
        disk += [part for f in folders for part in ("--ro-bind", str(f), str(f))]
        for link in ("/lib", "/lib64", "/bin"):
            target = Path(link)
            if target.is_symlink():
                disk += ["--symlink", str(target.readlink()), link]
            elif target.is_dir():
                disk += ["--ro-bind", link, link]
        if not any(folder.is_relative_to("/tmp") for folder in folders):
            disk += ["--symlink", SCRATCH, "/tmp"]
        if os.geteuid() == 0:  # in a user namespace it would be root outside: see `start`
            user = ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        else:
            user = ["--unshare-user", "--disable-userns", "--uid", str(_NOBODY)]
            user += ["--gid", str(_NOBODY)]
        return [
            shutil.which("bwrap") or "bwrap",
            *("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"),
            *("--unshare-cgroup-try", "--die-with-parent", "--new-session", "--clearenv"),
            *("--cap-drop", "ALL", *user, "--hostname", "sandbox", "--proc", "/proc"),
            *("--ro-bind", "/proc/sys", "/proc/sys", "--remount-ro", "/proc", "--dev", "/dev"),
            *("--perms", "1777", "--size", str(limits.disk_mb * 10**6), "--tmpfs", SCRATCH),
            *(*disk, *shown, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", SCRATCH),
        ]

    def close(self) -> None:
        """Let go of the users."""
        self._users.close()


class SeparateUser(Backend):
    """A user of its own in a folder of its own (chroot) with hard limits; needs root."""

    name = "separate user"
    promise = (
        "another user, locked into a folder that holds Python and nothing else and cannot be "
        "written to (where the container forbids mounts, cells that write files fail), without "
        "sockets that reach anything, with hard limits; the list of processes and the kernel are "
        "shared with the grader's machine, and a grader that is killed by force may leave a "
        "process of that user behind until the next run"
    )

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._roots: dict[Path, Path] = {}
        self._users = Users()

    def missing(self) -> str | None:
        """Whether we are root on a POSIX system and may change the root folder."""
        if not hasattr(os, "geteuid") or os.geteuid() != 0:
            return "the separate user needs the grader to run as root (in a container, say)"
        code = f"import os; os.chroot('/'); os.setgroups([]); os.setuid({_NOBODY})"
        tried = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, check=False)
        if tried.returncode != 0:
            return "the separate user needs the right to chroot and to change the user"
        return unknown_machine()

    def plan(
        self, stage: Path, limits: Limits, line: int, slot: int
    ) -> tuple[list[str], dict[str, str]]:
        """See `Backend.plan`."""
        with self._lock:
            if stage not in self._roots:
                self._roots[stage] = chroot.build(stage)
                weakref.finalize(self, shutil.rmtree, self._roots[stage], ignore_errors=True)
        where = {"COURSE_CHROOT": str(self._roots[stage]), "COURSE_STAGE": "/stage"}
        environment = worker_env(limits, self.user(slot), line) | where
        return [sys.executable, "-I", str(stage / START)], environment

    def user(self, slot: int) -> int:
        """See `Backend.user`."""
        return self._users.number(slot)

    def close(self) -> None:
        """Remove the folders and let go of the users."""
        with self._lock:
            for folder in self._roots.values():
                shutil.rmtree(folder, ignore_errors=True)
            self._roots = {}
        self._users.close()


class Unsafe(Backend):
    """No isolation at all: for a teacher's own files, and labelled so everywhere."""

    name = "unsafe"
    promise = "none: submissions ran with the grader's rights"
    limits_note = "limits of each process only, which hostile code can get around"

    def missing(self) -> str | None:
        """It can always be used."""
        return None

    def plan(
        self, stage: Path, limits: Limits, line: int, slot: int
    ) -> tuple[list[str], dict[str, str]]:
        """See `Backend.plan`."""
        scratch = tempfile.mkdtemp(prefix="scratch-", dir=stage)  # it goes with the stage
        own = {"COURSE_UNSAFE": "1", "HOME": scratch, "TMPDIR": scratch}
        return [sys.executable, "-I", str(stage / START)], worker_env(limits, 0, line) | own


def worker_env(limits: Limits, user: int, line: int) -> dict[str, str]:
    """The environment of the worker.

    Args:
        limits: of the submission.
        user: whom it becomes, if it is root.
        line: its socket.
    """
    return _ENVIRONMENT | {
        "COURSE_MEMORY": str(limits.memory_mb * 10**6),
        "COURSE_PROCESSES": str(limits.processes),
        "COURSE_DISK": str(limits.disk_mb * 10**6),
        "COURSE_SANDBOX_UID": str(user),
        "COURSE_LINE": str(line),
    }


def unknown_machine() -> str | None:
    """Why no system call can be forbidden here, or None."""
    machine = platform.machine()
    return None if machine in FORBIDDEN else f"there is no table of system calls for {machine}"
