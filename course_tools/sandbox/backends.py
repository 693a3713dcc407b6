"""Where a stranger's code runs: back ends that start the worker with nothing to read or reach.

- `Bubblewrap`: own namespaces for processes, network, users, mounts; the disk is Python, NumPy and
  torch, read-only, and a small folder in memory. Needs the program `bwrap` (0.8 or newer).
- `SeparateUser`: a user of its own in a folder of its own (chroot) with hard limits, for containers
  that forbid namespaces; needs root. What it does not promise stands in docs/teaching/grading.md.
- `Unsafe`: no isolation; for a teacher's own files.

Memory and processes are limited by a cgroup where one can be made, else by rlimits, which every
report says. `choose.choose` runs the self-test of each back end and refuses if none passes.
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
import weakref
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from course_tools.sandbox import chroot
from course_tools.sandbox.cgroups import Cgroup, Limits, SandboxError
from course_tools.sandbox.staging import START, python_folders

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
            _end_user(self.user)
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

    def command(self, stage: Path, limits: Limits, line: int) -> list[str]:
        """The command that starts the worker from the folder `stage`; `line` is its socket."""
        return [sys.executable, "-I", str(stage / START)]

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
        command = [*self._bwrap_args(Limits()), "--", sys.executable, "-I", "-c", "print('in')"]
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
        return [*self._bwrap_args(limits, shown), "--", sys.executable, "-I", f"/stage/{START}"]

    def _bwrap_args(self, limits: Limits, shown: Sequence[str] = ()) -> list[str]:
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
        for name, value in {**sandbox_env(limits), "COURSE_SANDBOX_UID": str(_NOBODY)}.items():
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
        self._roots: dict[Path, Path] = {}
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

    def environment(self, stage: Path, slot: int, limits: Limits, line: int) -> dict[str, str]:
        """See `Backend.environment`."""
        with self._lock:
            if stage not in self._roots:
                self._roots[stage] = chroot.build(stage)
                weakref.finalize(self, shutil.rmtree, self._roots[stage], ignore_errors=True)
        own = {"COURSE_SANDBOX_UID": str(self.user(slot)), "COURSE_LINE": str(line)}
        return {
            **sandbox_env(limits), **own, "COURSE_CHROOT": str(self._roots[stage]),
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
        """Remove the folders and let go of the users."""
        with self._lock:
            for folder in self._roots.values():
                shutil.rmtree(folder, ignore_errors=True)
            for _, descriptor in self._locks.values():
                os.close(descriptor)
            self._roots, self._locks = {}, {}


class Unsafe(Backend):
    """No isolation at all: for a teacher's own files, and labelled so everywhere."""

    name = "unsafe"
    promise = "none: submissions ran with the grader's rights"
    limits_note = "limits of each process only, which hostile code can get around"

    def missing(self) -> str | None:
        """It can always be used."""
        return None

    def environment(self, stage: Path, slot: int, limits: Limits, line: int) -> dict[str, str]:
        """See `Backend.environment`."""
        return {**sandbox_env(limits), "COURSE_UNSAFE": "1", "COURSE_LINE": str(line)}


def sandbox_env(limits: Limits) -> dict[str, str]:
    """The environment that the sandboxed program sees."""
    limit = {
        "COURSE_MEMORY": str(limits.memory_mb * 10**6),
        "COURSE_PROCESSES": str(limits.processes),
    }
    return {**_ENVIRONMENT, **limit}


# --- users ----------------------------------------------------------------------------------------


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
