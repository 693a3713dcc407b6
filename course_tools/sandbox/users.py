"""Users that no account should have: a grader that is root runs each sandbox as one of them."""

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from course_tools.sandbox.cgroups import SandboxError

_FIRST, _COUNT = 61_000, 4_000


class Users:
    """The users of one grader, a number for each of its workers; no other grader has them now."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[int, tuple[int, int]] = {}  # worker: user, open lock file

    def number(self, slot: int) -> int:
        """The user of a worker.

        Raises:
            SandboxError: if none is free.
        """
        with self._lock:
            if slot not in self._held:
                self._held[slot] = _take()
                end_processes(self._held[slot][0])  # left behind by a grader that was killed
            return self._held[slot][0]

    def close(self) -> None:
        """Let go of them."""
        with self._lock:
            for _, descriptor in self._held.values():
                os.close(descriptor)
            self._held = {}


def _take() -> tuple[int, int]:
    import fcntl

    for user in range(_FIRST, _FIRST + _COUNT):
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


def end_processes(user: int) -> None:
    """End every process of such a user: a process of that user signals all it may signal."""
    if not _FIRST <= user < _FIRST + _COUNT:
        raise ValueError(f"user: expected a sandbox's; got {user}")
    code = f"import os; os.setgroups([]); os.setgid({user}); os.setuid({user}); os.kill(-1, 9)"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, check=False)
