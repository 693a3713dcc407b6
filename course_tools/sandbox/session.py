"""The grader's end of a sandbox: send sources and scripts, get plain outcomes, keep the time.

Nothing that comes back is trusted: it is read with limits, an answer that breaks the protocol
gets the problem "died", and a sandbox that stops is replaced for the next exercise.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from course_lib.checks.script import Callback, Case, Outcome, Problem
from course_tools.sandbox.backends import Backend
from course_tools.sandbox.cgroups import Limits
from course_tools.sandbox.clock import Clock, Deadline
from course_tools.sandbox.inside import wire
from course_tools.sandbox.inside.shared_arguments import room
from course_tools.sandbox.inside.worker import AFTER_LATE
from course_tools.sandbox.line import Ended, Line

#: Most calls of callbacks that one exercise may make, and bytes of one such call.
_MOST_CALLS, _MOST_ASKED = 100_000, 10**6
#: Seconds (see `clock`) of all that a notebook does, and of one exercise, whatever scripts allow.
NOTEBOOK_SECONDS, EXERCISE_SECONDS = 90.0, 40.0
#: Seconds for all scripts that come after one that was not done in time: they are still tried,
#: since a loop may be that one's only, but a loop in each must not cost the limit of each.
_LATE_SECONDS = 10.0
#: Room beyond a script's `memory_mb` for what the interpreter and the frames need, and, where a
#: control group counts, for what a fork copies of its parent's memory and for what stays of the
#: exercises before; megabytes.
_SLACK_MB, _COPIED_MB, _STAYS_MB = 32.0, 20.0, 8.0

Factory = Callable[..., Callable[..., Any]]


class Session:
    """A sandbox for one submission, started when it is first needed and again after a fall.

    Args:
        backend: what isolates it.
        stage: as from `staging_dir`.
        register: the callbacks, by kind (`course_lib.checks.callbacks.REGISTER`).
        limits: of the submission.
        slot: number of the worker.
        seconds: of all that the submission does, as `clock` counts them.
    """

    def __init__(
        self,
        backend: Backend,
        stage: Path,
        register: Mapping[str, Factory],
        limits: Limits | None = None,
        slot: int = 0,
        seconds: float = NOTEBOOK_SECONDS,
    ) -> None:
        self.backend, self.stage, self.register = backend, stage, register
        self.limits, self.slot, self.seconds = limits or Limits(), slot, seconds
        self._line: Line | None = None
        self._narrowed = False
        self._clean = 0  # bytes in use when the sandbox was new
        self._past = 0.0  # processor seconds of sandboxes before, without those of their starts
        self._clock = Clock(self._processor_seconds)

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the sandbox."""
        if self._line is not None:
            self._past = self._processor_seconds() or 0.0
            self._line.close()
            self._line = None
            self._narrowed = False

    def run(
        self,
        number: str,
        name: str,
        program: str | Sequence[str],
        cases: Sequence[Case],
        *,
        imports: str = "",
        shown: int = 0,
        keep: float = 0.0,
    ) -> list[Outcome]:
        """Make an answer in the sandbox and run scripts on it.

        Args:
            number: of the exercise, for the student's tracebacks.
            name: of the answer.
            program: its source with what it depends on; or the cells of its notebook up to that of
                its check, which are replayed.
            cases: the scripts; only these leave the grader.
            imports: run before the program, whose own may have been deleted.
            shown: so many of them, the first, are of the visible check. What the answer says about
                them is shown, so they have a process that never sees the others.
            keep: seconds of the submission that are not for this exercise.

        Returns:
            One outcome a case, whatever happens; those that never came have a problem.

        Raises:
            SandboxError: if no sandbox starts.
        """
        left = self.seconds - self._clock.spent - keep
        seconds = min(EXERCISE_SECONDS, 10.0 + sum(case.seconds for case in cases), left)
        if seconds <= 0:
            problem = Problem("time", "the time of the whole notebook was up")
            return [Outcome(problem=problem)] * len(cases)
        deadline = Deadline(self._clock, seconds)
        program = program if isinstance(program, str) else list(program)
        task = {"number": number, "name": name, "program": program, "imports": imports}
        outcomes: dict[int, Outcome] = {}
        for group in _groups(cases, shown):
            some = [cases[i] for i in group]
            if any(map(_late, outcomes.values())):
                some = [replace(case, seconds=min(case.seconds, AFTER_LATE)) for case in some]
            found = self._exercise(task, some, deadline)
            outcomes |= dict(zip(group, found, strict=True))
            if any(map(_late, found)):
                deadline.shorten(_LATE_SECONDS)
        return [outcomes[i] for i in range(len(cases))]

    def _exercise(
        self, task: dict[str, Any], cases: Sequence[Case], deadline: Deadline
    ) -> list[Outcome]:
        """One process of the sandbox: scripts that share a memory limit."""
        answers = _Callbacks(self.register)
        hidden = [answers.hide(case) for case in cases]
        request = task | {
            "seconds": max(1.0, deadline.left), "memory_mb": cases[0].memory_mb,
            "room_mb": _room(cases[0]),
            "shared": room(hidden, reused=_room(cases[0]) is not None),
            "scripts": [(len(case.calls), case.seconds) for case in hidden],
        }  # fmt: skip
        line = self._ready_line()
        outcomes: list[Outcome] = []
        problem: Problem | None = None
        try:
            line.begin(wire.pack(request), deadline)
            self._narrow(_room(cases[0]), request["shared"])
            line.send(b"C", wire.pack({"cases": hidden}), deadline)
            while len(outcomes) < len(cases):
                message, size = line.frame(deadline)
                if isinstance(message, Outcome):
                    case = cases[len(outcomes)]
                    outcomes.append(wire.checked(message, case, answers.taken()))
                    if _late(outcomes[-1]):
                        deadline.shorten(_LATE_SECONDS)
                elif size > _MOST_ASKED:
                    raise wire.WireError("too much for a call")
                else:
                    line.send(b"D", answers.to(message), deadline)
        except Ended as ended:
            problem = ended.problem
        except (wire.WireError, OSError) as error:
            problem = Problem("died", f"the answer broke off ({type(error).__name__}: {error})")
        if not line.stop_exercise():
            # Whether it changed its arguments stays unsaid: what came before counts for nothing.
            problem = problem or Problem("died", "the program ended the sandbox")
            outcomes = []
            self.close()
        elif not line.clean:
            self.close()
        self._narrow(None)
        missing = Outcome(problem=problem, callbacks={})
        outcomes += [missing] * (len(cases) - len(outcomes))
        return _with_changes(outcomes, line.changed)

    def _narrow(self, room_mb: float | None, shared: int = 0) -> None:
        """Let the sandbox have so much more than it holds now, whatever its processes do."""
        group = self._line.started.group if self._line is not None else None
        if group is None or (room_mb is None and not self._narrowed):
            return
        more = None if room_mb is None else int((room_mb + _COPIED_MB) * 10**6)
        group.narrow(more, self._clean + shared + int(_STAYS_MB * 10**6))
        self._narrowed = room_mb is not None

    def _processor_seconds(self) -> float | None:
        if self._line is None:
            return self._past
        group = self._line.started.group
        now = None if group is None else group.processor_seconds()
        return None if now is None else self._past + now

    def _ready_line(self) -> Line:
        if self._line is None:
            line = Line(self.backend.start(self.stage, self.limits, self.slot))
            line.wait_until_ready()
            self._line, group = line, line.started.group
            if group is not None:
                self._clean = group.memory_in_use()
                self._past -= group.processor_seconds() or 0.0
        return self._line


def _groups(cases: Sequence[Case], shown: int) -> Iterator[list[int]]:
    """Which cases may share a process: the visible ones, and all others without a memory limit.

    A limit is one process's, and cannot be lifted.
    """
    free = [i for i, case in enumerate(cases) if _room(case) is None]
    both = [i for i in free if i < shown], [i for i in free if i >= shown]
    yield from filter(None, both)
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


class _Callbacks:
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
