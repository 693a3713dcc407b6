"""The grader's end of a sandbox: send sources and scripts, get plain outcomes, keep the time.

Nothing that comes back is trusted: it is read with limits, an answer that breaks the protocol
gets the problem "died", and a sandbox that stops is replaced for the next exercise.
"""

import json
import select
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from course_lib.checks.script import Callback, Case, Outcome, Problem
from course_tools.sandbox.backends import Backend, Started
from course_tools.sandbox.cgroups import Limits, SandboxError
from course_tools.sandbox.inside import wire
from course_tools.sandbox.inside.shared_arguments import room
from course_tools.sandbox.inside.worker import AFTER_LATE

#: Most bytes that one exercise may send, calls of callbacks that it may make, and bytes
#: of one such call.
_MOST_BYTES, _MOST_CALLS, _MOST_ASKED = 64 * 10**6, 100_000, 10**6
#: Seconds until a new sandbox must be ready (the import of torch on a busy machine), and until
#: an exercise must be ended.
_START_SECONDS, _STOP_SECONDS = 120.0, 10.0
#: Seconds of one exercise at most, whatever its scripts allow.
EXERCISE_SECONDS = 40.0
#: Seconds for all scripts that come after one that was not done in time: they are still tried,
#: since a loop may be that one's only, but a loop in each must not cost the limit of each.
_LATE_SECONDS = 10.0
_CHUNK = 1 << 18
#: Room beyond a script's `memory_mb` for what the interpreter and the frames need, and, where a
#: control group counts, for what a fork copies of its parent's memory; megabytes.
_SLACK_MB, _COPIED_MB = 32.0, 20.0

Factory = Callable[..., Callable[..., Any]]


class _Ended(Exception):  # noqa: N818 (the end of an exercise, not an error of ours)
    """Nothing more will come; `problem` says why."""

    def __init__(self, kind: str, text: str) -> None:
        self.problem = Problem(kind, text)


class Session:
    """A sandbox for one submission, started when it is first needed and again after a fall.

    Args:
        backend: what isolates it.
        stage: as from `staging_dir`.
        register: the callbacks, by kind (`course_lib.checks.callbacks.REGISTER`).
        limits: of the submission.
        slot: number of the worker.
    """

    def __init__(
        self,
        backend: Backend,
        stage: Path,
        register: Mapping[str, Factory],
        limits: Limits | None = None,
        slot: int = 0,
    ) -> None:
        self.backend, self.stage, self.register = backend, stage, register
        self.limits, self.slot = limits or Limits(), slot
        self._line: _Line | None = None
        self._narrowed = False

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the sandbox."""
        if self._line is not None:
            self._line.close()
            self._line = None
            self._narrowed = False

    def run(self, number: str, name: str, source: str, cases: Sequence[Case]) -> list[Outcome]:
        """Define an answer in the sandbox and run scripts on it.

        Args:
            number: of the exercise, for the student's tracebacks.
            name: of the answer in `source`.
            source: the answer and what it depends on.
            cases: the scripts; only these leave the grader.

        Returns:
            One outcome a case, whatever happens; those that never came have a problem.

        Raises:
            SandboxError: if no sandbox starts.
        """
        end = time.monotonic() + min(EXERCISE_SECONDS, 10.0 + sum(case.seconds for case in cases))
        outcomes: dict[int, Outcome] = {}
        for group in _groups(cases):
            some = [cases[i] for i in group]
            if any(map(_late, outcomes.values())):
                some = [replace(case, seconds=min(case.seconds, AFTER_LATE)) for case in some]
            found = self._exercise(number, name, source, some, end)
            outcomes |= dict(zip(group, found, strict=True))
            if any(map(_late, found)):
                end = min(end, time.monotonic() + _LATE_SECONDS)
        return [outcomes[i] for i in range(len(cases))]

    def _exercise(
        self, number: str, name: str, source: str, cases: Sequence[Case], end: float
    ) -> list[Outcome]:
        """One process of the sandbox: scripts that share a memory limit."""
        answers = _Answers(self.register)
        seconds = max(1.0, end - time.monotonic())
        hidden = [answers.hide(case) for case in cases]
        request = {
            "number": number, "name": name, "source": source, "seconds": seconds,
            "memory_mb": cases[0].memory_mb, "room_mb": _room(cases[0]), "shared": room(hidden),
            "scripts": [(len(case.calls), case.seconds) for case in hidden],
        }  # fmt: skip
        line = self._ready_line()
        end = max(end, time.monotonic() + 1.0)  # a start may have taken long; that is not its fault
        outcomes: list[Outcome] = []
        problem: Problem | None = None
        try:
            line.begin(wire.pack(request), end)
            self._narrow(_room(cases[0]))
            line.send(b"C", wire.pack({"cases": hidden}), end)
            while len(outcomes) < len(cases):
                message, size = line.frame(end)
                if isinstance(message, Outcome):
                    outcomes.append(wire.checked(message, answers.taken()))
                    if _late(outcomes[-1]):
                        end = min(end, time.monotonic() + _LATE_SECONDS)
                elif size > _MOST_ASKED:
                    raise wire.WireError("too much for a call")
                else:
                    line.send(b"D", answers.to(message), end)
        except _Ended as ended:
            problem = ended.problem
        except (wire.WireError, OSError) as error:
            problem = Problem("died", f"the answer broke off ({type(error).__name__}: {error})")
        if not line.stop_exercise():
            self.close()
            # Whether it changed its arguments stays unsaid: what came before counts for nothing.
            problem = problem or Problem("died", "the program ended the sandbox")
            outcomes = []
        self._narrow(None)
        missing = Outcome(problem=problem, callbacks={})
        outcomes += [missing] * (len(cases) - len(outcomes))
        return _with_changes(outcomes, line.changed)

    def _narrow(self, room_mb: float | None) -> None:
        """Let the sandbox have so much more than it holds now, whatever its processes do."""
        group = self._line.started.group if self._line is not None else None
        if group is not None and (room_mb is not None or self._narrowed):
            group.narrow(None if room_mb is None else int((room_mb + _COPIED_MB) * 10**6))
            self._narrowed = room_mb is not None

    def _ready_line(self) -> "_Line":
        if self._line is None:
            line = _Line(self.backend.start(self.stage, self.limits, self.slot))
            line.wait_until_ready()
            self._line = line
        return self._line


def _groups(cases: Sequence[Case]) -> Iterator[list[int]]:
    """Which cases may share a process: each memory limit is one process's, and cannot be lifted."""
    free = [i for i, case in enumerate(cases) if _room(case) is None]
    if free:
        yield free
    yield from ([i] for i, case in enumerate(cases) if _room(case) is not None)


def _with_changes(outcomes: Sequence[Outcome], changed: Sequence[tuple[int, str]]) -> list[Outcome]:
    """Outcomes with the changed arguments that the sandbox's first process saw as well."""
    merged = list(outcomes)
    for index, name in changed:
        if 0 <= index < len(merged) and name not in merged[index].changed:
            merged[index] = replace(merged[index], changed=(*merged[index].changed, name))
    return merged


def _late(outcome: Outcome) -> bool:
    return outcome.problem is not None and outcome.problem.kind == "time"


def _room(case: Case) -> float | None:
    """Megabytes that a script's process may take, as limits from outside can tell."""
    if case.memory_mb is None or case.room_mb is not None:
        return case.room_mb
    return case.memory_mb + _SLACK_MB


class _Answers:
    """Serves the functions that scripts hand to an answer, and counts what was asked.

    The sandbox knows a function by a number only: its parameters may be the answer itself.
    """

    def __init__(self, register: Mapping[str, Factory]) -> None:
        self.register = register
        self.calls = self._case = 0
        self._known: list[tuple[int, Callback]] = []  # case, function
        self._made: dict[int, Callable[..., Any]] = {}
        self._log: dict[str, list[Any]] = {}
        self._hidden = 0

    def hide(self, case: Case) -> Case:
        """The case as the sandbox may see it: numbers for functions, no words."""
        calls = tuple(
            replace(call, args=self._plain(call.args), kwargs=self._plain(dict(call.kwargs)))
            for call in case.calls
        )
        self._hidden += 1
        return replace(case, calls=calls, note="")

    def _plain(self, value: Any) -> Any:
        if isinstance(value, Callback):
            self._known.append((self._hidden, value))
            return Callback(value.kind, {"id": len(self._known) - 1})
        if isinstance(value, (list, tuple)):
            return type(value)(self._plain(item) for item in value)
        if isinstance(value, dict):
            return {key: self._plain(item) for key, item in value.items()}
        return value

    def to(self, message: Any) -> bytes:
        """The reply to a call."""
        match message:
            case {"id": int(number), "args": list(args), "kwargs": dict(kwargs)}:
                pass
            case _:
                raise wire.WireError("expected a call of a callback")
        self.calls += 1
        if self.calls > _MOST_CALLS or not 0 <= number < len(self._known):
            raise wire.WireError("unexpected call")
        case, what = self._known[number]
        if case != self._case:
            raise wire.WireError("a call of another script's callback")
        self._log.setdefault(what.kind, []).append(tuple(args) + ((kwargs,) if kwargs else ()))
        try:
            if number not in self._made:
                self._made[number] = self.register[what.kind](**what.params)
            return wire.pack({"value": self._made[number](*args, **kwargs)})
        except Exception as error:  # the answer passed something that the function cannot take
            return wire.pack({"error": f"{type(error).__name__}: {error}"[:300]})

    def taken(self) -> dict[str, list[Any]]:
        """What was asked since the last time, by kind; the next case begins."""
        mine = [what.kind for case, what in self._known if case == self._case]
        log = {kind: self._log.get(kind, []) for kind in mine}
        self._log, self._made = {}, {}
        self._case += 1
        return log


class _Line:
    """The socket of a sandbox. It is read even while it is written, so that no side blocks."""

    def __init__(self, started: Started) -> None:
        self.started = started
        self._socket = started.line
        self._socket.setblocking(False)
        self._came = bytearray()  # envelopes
        self._buffer = bytearray()  # bytes of the exercise that runs
        self._received = 0
        self._running = False
        self.changed: list[tuple[int, str]] = []  # by the exercise that ended last

    def wait_until_ready(self) -> None:
        """Wait for the sandbox's first word.

        Raises:
            SandboxError: if it does not come.
        """
        try:
            letter, _ = self._envelope(time.monotonic() + _START_SECONDS)
        except (_Ended, OSError):
            letter = b""
        except BaseException:
            self.close()
            raise
        if letter != b"S":
            self.close()
            raise SandboxError(f"the sandbox did not start: {self.started.stderr_text()[-600:]}")
        self.started.ready()

    def begin(self, request: bytes, end: float) -> None:
        """Have an exercise prepared; envelope C has it run."""
        self._buffer.clear()
        self._received = 0
        self._running, self.changed = True, []
        self.send(b"R", request, end)
        letter, _ = self._envelope(end)
        if letter != b"P":
            raise _Ended("died", "the sandbox sent something unreadable")

    def send(self, letter: bytes, data: bytes, end: float) -> None:
        """One envelope."""
        rest = memoryview(wire.ENVELOPE.pack(letter, len(data)) + data)
        while rest:
            if self._wait(end, select.POLLIN | select.POLLOUT) & select.POLLOUT:
                rest = rest[self._socket.send(rest[:_CHUNK]) :]

    def frame(self, end: float) -> tuple[Any, int]:
        """The next frame of the exercise, before the time `end`, and its bytes."""
        before = self._received - len(self._buffer)
        message = wire.unpack(lambda size: self._take(size, end))
        return message, self._received - len(self._buffer) - before

    def stop_exercise(self) -> bool:
        """End the exercise; False if the sandbox is no longer there or does not obey."""
        if not self._running:
            return True
        end = time.monotonic() + _STOP_SECONDS
        try:
            self.send(b"K", b"", end)
            while True:
                self._received = 0
                self._next(end)
        except _Ended as ended:
            return ended.problem.kind == "ended"
        except OSError:
            return False

    def close(self) -> None:
        """End the sandbox."""
        self.started.stop()

    def _take(self, size: int, end: float) -> bytes:
        while len(self._buffer) < size:
            self._buffer += self._next(end)
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def _next(self, end: float) -> bytes:
        """Bytes that the exercise sent."""
        letter, data = self._envelope(end)
        if letter == b"E":
            self._running = False
            self.changed = _changes(data)
            raise _Ended("ended", "the program ended before it gave an answer")
        self._received += len(data)
        if letter != b"D" or self._received > _MOST_BYTES:
            raise _Ended("died", "the program sent too much")
        return data

    def _envelope(self, end: float) -> tuple[bytes, bytes]:
        while True:
            if len(self._came) >= wire.ENVELOPE.size:
                letter, size = wire.ENVELOPE.unpack_from(self._came)
                if size > _CHUNK:
                    raise _Ended("died", "the sandbox sent something unreadable")
                whole = wire.ENVELOPE.size + size
                if len(self._came) >= whole:
                    data = bytes(self._came[wire.ENVELOPE.size : whole])
                    del self._came[:whole]
                    return letter, data
            self._wait(end, select.POLLIN)

    def _wait(self, end: float, what: int) -> int:
        """Wait until the line can do something of `what`; read what is there."""
        poll = select.poll()
        poll.register(self._socket, what)
        left = end - time.monotonic()
        events = poll.poll(max(0.0, left) * 1000) if left > 0 else []
        if not events:
            raise _Ended("time", "the exercise was still running when its time was up")
        found = events[0][1]
        if found & ~select.POLLOUT:
            with suppress(BlockingIOError):
                data = self._socket.recv(_CHUNK)
                if not data:
                    raise _Ended("died", "the program ended the sandbox")
                self._came += data
                if len(self._came) > _MOST_BYTES:
                    raise _Ended("died", "the program sent too much")
        return found


def _changes(data: bytes) -> list[tuple[int, str]]:
    """What the sandbox's first process says about arguments."""
    with suppress(ValueError, TypeError, OverflowError, RecursionError):
        return [(int(case), str(name)[:80]) for case, name in json.loads(data)]
    raise _Ended("died", "the sandbox sent something unreadable")
