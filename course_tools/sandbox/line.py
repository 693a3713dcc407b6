"""The socket of a sandbox, at the grader's end: envelopes with limits and deadlines."""

import json
import select
import time
from contextlib import suppress
from typing import Any

from course_lib.checks.script import Problem
from course_tools.sandbox.backends import Started
from course_tools.sandbox.cgroups import SandboxError
from course_tools.sandbox.clock import Deadline, passing
from course_tools.sandbox.inside import wire

#: Most bytes that one task may send.
_MOST_BYTES = 64 * 10**6
#: Seconds until a new sandbox must be ready (the import of torch on a busy machine), and until
#: a task must be ended.
_START_SECONDS, STOP_SECONDS = 120.0, 30.0
_CHUNK = 1 << 18
#: Seconds between two looks at the clock.
_LOOK = 0.25


class Ended(Exception):  # noqa: N818 (the end of a task, not an error of ours)
    """Nothing more will come; `problem` says why."""

    def __init__(self, kind: str, text: str) -> None:
        self.problem = Problem(kind, text)


class Line:
    """The socket of a sandbox. It is read even while it is written, so that no side blocks.

    Attributes:
        changed: (script, argument) of what the task that ended last changed.
        clean: whether nothing is left of it.
    """

    def __init__(self, started: Started) -> None:
        self.started = started
        self._socket = started.line
        self._socket.setblocking(False)
        self._came = bytearray()  # envelopes
        self._buffer = bytearray()  # bytes of the exercise that runs
        self._received = 0
        self._running = False
        self.changed: list[tuple[int, str]] = []
        self.clean = True

    def wait_until_ready(self) -> None:
        """Wait for the sandbox's first word.

        Raises:
            SandboxError: if it does not come.
        """
        try:
            letter, _ = self._envelope(passing(_START_SECONDS))
        except (Ended, OSError):
            letter = b""
        except BaseException:
            self.close()
            raise
        if letter != b"S":
            self.close()
            raise SandboxError(f"the sandbox did not start: {self.started.stderr_text()[-600:]}")
        self.started.ready()

    def begin(self, request: bytes, deadline: Deadline) -> None:
        """Have an exercise prepared; envelope C has it run."""
        self._buffer.clear()
        self._received = 0
        self._running, self.changed = True, []
        self.send(b"R", request, deadline)
        letter, _ = self._envelope(deadline)
        if letter != b"P":
            raise Ended("died", "the sandbox sent something unreadable")

    def send(self, letter: bytes, data: bytes, deadline: Deadline) -> None:
        """One envelope."""
        rest = memoryview(wire.ENVELOPE.pack(letter, len(data)) + data)
        while rest:
            if self._wait(deadline, select.POLLIN | select.POLLOUT) & select.POLLOUT:
                rest = rest[self._socket.send(rest[:_CHUNK]) :]

    def frame(self, deadline: Deadline) -> tuple[Any, int]:
        """The next frame of the exercise, before the deadline, and its bytes."""
        before = self._received - len(self._buffer)
        message = wire.unpack(lambda size: self._take(size, deadline))
        return message, self._received - len(self._buffer) - before

    def stop_exercise(self) -> bool:
        """End the exercise; False if the sandbox is no longer there or does not obey."""
        if not self._running:
            return True
        deadline = passing(STOP_SECONDS)
        try:
            self.send(b"K", b"", deadline)
            while True:
                self._received = 0
                self._next(deadline)
        except Ended as ended:
            return ended.problem.kind == "ended"
        except OSError:
            return False

    def close(self) -> None:
        """End the sandbox."""
        self.started.stop()

    def _take(self, size: int, deadline: Deadline) -> bytes:
        while len(self._buffer) < size:
            self._buffer += self._next(deadline)
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def _next(self, deadline: Deadline) -> bytes:
        """Bytes that the exercise sent."""
        letter, data = self._envelope(deadline)
        if letter == b"E":
            self._running = False
            self.changed, self.clean = _last_word(data)
            raise Ended("ended", "the program ended before it gave an answer")
        self._received += len(data)
        if letter != b"D" or self._received > _MOST_BYTES:
            raise Ended("died", "the program sent too much")
        return data

    def _envelope(self, deadline: Deadline) -> tuple[bytes, bytes]:
        while True:
            if len(self._came) >= wire.ENVELOPE.size:
                letter, size = wire.ENVELOPE.unpack_from(self._came)
                if size > _CHUNK:
                    raise Ended("died", "the sandbox sent something unreadable")
                whole = wire.ENVELOPE.size + size
                if len(self._came) >= whole:
                    data = bytes(self._came[wire.ENVELOPE.size : whole])
                    del self._came[:whole]
                    return letter, data
            self._wait(deadline, select.POLLIN)

    def _wait(self, deadline: Deadline, what: int) -> int:
        """Wait until the line can do something of `what`; read what is there."""
        poll = select.poll()
        poll.register(self._socket, what)
        events: list[tuple[int, int]] = []
        while not events:
            if deadline.left <= 0:
                raise Ended("time", "the exercise was still running when its time was up")
            before = time.monotonic()
            events = poll.poll(min(deadline.left, _LOOK) * 1000 + 1)
            deadline.clock.waited(time.monotonic() - before)
        found = events[0][1]
        if found & ~select.POLLOUT:
            with suppress(BlockingIOError):
                data = self._socket.recv(_CHUNK)
                if not data:
                    raise Ended("died", "the program ended the sandbox")
                self._came += data
                if len(self._came) > _MOST_BYTES:
                    raise Ended("died", "the program sent too much")
        return found


def _last_word(data: bytes) -> tuple[list[tuple[int, str]], bool]:
    """What the sandbox's first process says about arguments, and about what is left."""
    with suppress(ValueError, TypeError, OverflowError, RecursionError):
        changed, clean = json.loads(data)
        return [(int(case), str(name)[:80]) for case, name in changed], clean is True
    raise Ended("died", "the sandbox sent something unreadable")
