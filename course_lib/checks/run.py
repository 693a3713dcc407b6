"""Runs a script on an answer: the same function here, in a student's kernel, and in a sandbox.

The answer gets copies of its inputs, and what it returns is copied before the next step. Nothing
in this module knows an expected value.
"""

import builtins
import linecache
import math
import signal
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from course_lib.checks.error_location import error_location
from course_lib.checks.script import (
    Call,
    Callback,
    Case,
    Drawn,
    DType,
    MakeCallback,
    NotPlainError,
    Outcome,
    Problem,
    Tensor,
    to_plain,
)

_MEGABYTE = 10**6
#: A script that works for less than this share of the time waits, and so long as this many times
#: its limit nothing runs.
_IDLE, _PATIENCE = 0.02, 20


class _TimeUp(BaseException):  # not an Exception: an answer's own `except Exception` lets it pass
    pass


class _Stop(Exception):  # noqa: N818 (the end of a script, not an error)
    """A script cannot go on."""

    def __init__(self, kind: str, text: str) -> None:
        self.kind, self.text = kind, text


#: Gives an array of a shape and dtype (`shared_arguments`, of the grader).
Share = Callable[[tuple[int, ...], np.dtype], np.ndarray]


def run_script(
    answer: object,
    case: Case,
    make_callback: MakeCallback | None = None,
    share: Share | None = None,
) -> Outcome:
    """Do with an answer what a case says.

    Args:
        answer: a student's function, class or value.
        case: the script.
        make_callback: makes the function that a `Callback` names; if not given, it is made from the
            register and runs in this process. Its calls are counted either way.
        share: gives the arrays that the answer gets for those of the script, with the same numbers
            in them already; it is asked in the order of arguments. If not given, they are copies.

    Returns:
        What came back, as plain values. What went wrong is in `problem`; nothing is raised.
    """
    run = _Run(answer, make_callback or _make_here, share)
    problem = None
    try:
        with time_limit(case.seconds), _memory(case.memory_mb) as run.meter:
            run.all(case)
    except _Stop as stop:
        problem = Problem(stop.kind, stop.text, run.step)
    except _TimeUp:
        problem = Problem("time", f"still running after {case.seconds:g} seconds", run.step)
    except KeyboardInterrupt:
        problem = Problem("interrupted", "interrupted while it ran", run.step)
    except MemoryError:
        problem = Problem("memory", "the computer ran out of memory", run.step)
    except BaseException as error:  # SystemExit and the like are an answer's too
        if _not_done(error):
            problem = Problem("not done", str(_not_done(error)) or "not done yet", run.step)
        else:
            problem = Problem("raised", error_location(error), run.step)
    peak, limit = (run.meter.peak if run.meter else None), case.memory_mb
    if problem is None and peak and limit is not None and peak > limit * _MEGABYTE:
        used = f"it holds {peak / _MEGABYTE:.1f} MB on top of its arguments"
        text = f"{used}; at most {limit:g} MB are allowed"
        problem = Problem("memory", text, run.step)
    return Outcome(tuple(run.values), tuple(run.changed), problem, run.callbacks, peak)


def run_source(
    source: str, filename: str, module: str = "__main__", imports: str = ""
) -> dict[str, Any]:
    """What a text defines; tracebacks and `inspect` find its lines under the file's name.

    Args:
        source: the text.
        filename: see above.
        module: its `__name__`.
        imports: run before it.
    """
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    space: dict[str, Any] = {"__name__": module}
    exec(imports, space)
    exec(compile(source, filename, "exec"), space)
    return space


def _not_done(error: BaseException | None) -> NotImplementedError | None:
    """The NotImplementedError in a chain of causes (Triton's interpreter wraps it)."""
    while error is not None and not isinstance(error, NotImplementedError):
        error = error.__cause__ or error.__context__
    return error


class _Run:
    """The state of one script."""

    def __init__(self, answer: object, make_callback: MakeCallback, share: Share | None) -> None:
        self.answer, self.make_callback, self.share = answer, make_callback, share
        self.values: list[Any] = []
        self.changed: list[str] = []
        self.callbacks: dict[str, list[Any]] = {}
        self.saved: dict[str, Any] = {}
        self.before: list[Any] = []  # arguments of the last call
        self.step = 0
        self.meter: _Meter | None = None

    def all(self, case: Case) -> None:
        if not case.calls:
            if self.answer is None:
                raise _Stop("not done", "not done yet")
            self.values.append(_plain_or_stop(self.answer))
        for self.step, call in enumerate(case.calls):
            self.values.append(self.one(call))

    def one(self, call: Call) -> Any:
        function = self.target(call)
        given = [call.args, dict(call.kwargs)]
        args, kwargs = self.made(given)
        args = [self.before[i] if i in call.again else arg for i, arg in enumerate(args)]
        self.before = args
        with _modules_kept():
            with self.meter or nullcontext():
                result = self.called(function, args, kwargs, catch=call.catch)
            if self.meter:
                self.meter.end_call(keep=call.save is not None)
        if call.pick is not None:
            result = tuple(array[:, list(call.pick)] for array in result)
        plain = result if call.save is not None else _plain_or_stop(result)
        self.changed += [
            f"argument {name} of call {self.step}"
            for name, is_now, was in [
                *((str(i), a, g) for i, (a, g) in enumerate(zip(args, call.args, strict=True))),
                *((repr(n), kwargs[n], g) for n, g in call.kwargs.items()),
            ]
            if not self.looked_at(was) and not _same(is_now, self.made(was, again=True))
        ]
        if call.overwrite_args:
            _overwrite([args, kwargs])
        if call.save is None:
            return plain
        self.saved[call.save] = plain
        return None

    @staticmethod
    def called(function: Callable[..., Any], args: Any, kwargs: Any, *, catch: bool) -> Any:
        try:
            return function(*args, **kwargs)
        except NotImplementedError:
            raise
        except Exception as error:
            if not catch or _not_done(error):
                raise
            names = (c.__name__ for c in type(error).__mro__ if c.__module__ == "builtins")
            return ("raised", next(names))

    def target(self, call: Call) -> Callable[..., Any]:
        if call.method is None:
            if self.answer is None:
                raise _Stop("not done", "not done yet")
            if not callable(self.answer):
                raise _Stop("missing", _not_callable(self.answer))
            return self.answer
        method = getattr(self.saved[call.on], call.method, None)
        if not callable(method):
            kind = type(self.saved[call.on]).__name__
            raise _Stop("missing", f"a {kind} has no method {call.method}()")
        return method

    def made(self, value: Any, *, again: bool = False) -> Any:
        """The argument that a plain description stands for.

        Args:
            value: the description.
            again: only to compare with; nothing is shared or called.
        """
        match value:
            case np.ndarray():
                if again or not self.share:
                    return value.copy()
                return self.share(value.shape, value.dtype)
            case Tensor():
                return torch.from_numpy(self.made(value.value, again=again))
            case DType():
                return _dtype(value)
            case Drawn():
                if again or not self.share:
                    return value.array()
                return self.share(tuple(value.shape), np.dtype(value.dtype))
            case Callback():
                return value if again else self.counted(value)
            case list() | tuple():
                return type(value)(self.made(item, again=again) for item in value)
            case dict():
                return {key: self.made(item, again=again) for key, item in value.items()}
        return value

    def looked_at(self, value: Any) -> bool:
        """Whether somebody else sees to it that a large argument stays as it was."""
        return self.share is not None and isinstance(value, Drawn)

    def counted(self, what: Callback) -> Callable[..., Any]:
        """The callback; it takes and gives arrays, or tensors if it is given one."""
        function = self.make_callback(what)
        records = self.callbacks.setdefault(what.kind, [])

        def callback(*args: Any, **kwargs: Any) -> Any:
            plain = to_plain(args) + ((to_plain(kwargs),) if kwargs else ())
            records.append(plain)
            result = function(*to_plain(args), **to_plain(kwargs))
            wants_torch = any(isinstance(a, torch.Tensor) for a in tree_leaves([args, kwargs]))
            return torch.as_tensor(result) if wants_torch else result

        callback.__name__ = callback.__qualname__ = what.kind
        return callback


def _make_here(what: Callback) -> Callable[..., Any]:
    from course_lib.checks.callbacks import REGISTER  # a sandbox has none: the grader answers

    return REGISTER[what.kind](**what.params)


def _plain_or_stop(value: Any) -> Any:
    try:
        return to_plain(value)
    except NotPlainError as error:
        text = f"it returns {error}; expected arrays, numbers, or lists of them"
        raise _Stop("not plain", text) from None


def _not_callable(answer: object) -> str:
    if isinstance(answer, str):
        return "got a text; pass the function itself, without quotation marks"
    if isinstance(answer, (np.ndarray, torch.Tensor, list, tuple, int, float, np.generic)):
        return (
            f"got a result ({type(answer).__name__}); pass the function itself, "
            "without calling it: its name and no parentheses"
        )
    return (
        f"got an object of type {type(answer).__name__}; pass the function or the class itself, "
        "without parentheses"
    )


def _dtype(what: DType) -> Any:
    if what.library == "torch":
        return getattr(torch, what.name)
    return np.dtype(what.name)


def _same(is_now: Any, was: Any) -> bool:
    """Whether an argument is as it was, to the bit (NaN equals itself)."""
    if isinstance(was, torch.Tensor):
        if not isinstance(is_now, torch.Tensor) or is_now.dtype != was.dtype:
            return False
        return _same(is_now.detach().numpy(), was.numpy())
    if isinstance(was, np.ndarray):
        same_kind = is_now.dtype == was.dtype and is_now.shape == was.shape
        return same_kind and same_bits(is_now, was)
    if isinstance(was, (list, tuple)):
        return len(is_now) == len(was) and all(map(_same, is_now, was))
    if isinstance(was, dict):
        return is_now.keys() == was.keys() and all(_same(is_now[k], was[k]) for k in was)
    if isinstance(was, float) and math.isnan(was):
        return isinstance(is_now, float) and math.isnan(is_now)
    return callable(is_now) if isinstance(was, Callback) else bool(is_now == was)


def same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays of one dtype and shape hold the same, NaN included."""
    a, b = (np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in (one, other))
    return np.array_equal(a, b)


def _overwrite(value: Any) -> None:
    """Overwrite arrays and tensors in place, as a caller does who reuses its buffers."""
    if isinstance(value, torch.Tensor):
        with torch.no_grad():
            value.fill_(True if value.dtype == torch.bool else 77)
    elif isinstance(value, np.ndarray):
        value[...] = 77
    elif isinstance(value, (list, tuple)):
        for item in value:
            _overwrite(item)
    elif isinstance(value, dict):
        for item in value.values():
            _overwrite(item)


class _modules_kept:  # noqa: N801 (used like a function)
    """Undo what an answer does to the built-in names, NumPy and torch: our own code needs them."""

    def __enter__(self) -> None:
        self.spaces = [vars(module) for module in (builtins, np, torch)]
        self.before = [dict(space) for space in self.spaces]

    def __exit__(self, *error: object) -> None:
        # No built-in name may be used here (nor by contextlib): the answer may have deleted it.
        self.spaces[0].update(self.before[0])
        self.spaces[1].update(self.before[1])
        self.spaces[2].update(self.before[2])


# --- limits --------------------------------------------------------------------------------------


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Stop after so many seconds, where the system can (POSIX, main thread, no other timer).

    What counts is work, so that a busy computer makes no right answer late; or the time that
    passed, where next to nothing was done in it or a multiple has passed.
    """
    possible = hasattr(signal, "setitimer") and (
        threading.current_thread() is threading.main_thread()
        and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    )
    if not possible:
        yield
        return
    start, worked = time.monotonic(), time.process_time()

    def up(number: int, frame: object) -> None:
        waited, did = time.monotonic() - start, time.process_time() - worked
        if waited >= seconds and (
            did >= seconds or did < _IDLE * waited or waited >= _PATIENCE * seconds
        ):
            raise _TimeUp

    before = signal.signal(signal.SIGALRM, up)
    # Rings again, because an answer's `except:` can swallow the first.
    signal.setitimer(signal.ITIMER_REAL, seconds + 0.01, 0.5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class _Meter(TorchFunctionMode):
    """What calls allocate: Python and NumPy by tracemalloc, torch by its largest tensor.

    Memory that a call leaves behind in a saved object counts in later calls too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = self.held = self.before = 0

    def __enter__(self) -> "_Meter":
        tracemalloc.reset_peak()
        self.before = tracemalloc.get_traced_memory()[0]
        return super().__enter__()

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for item in tree_leaves(result):
            if isinstance(item, torch.Tensor):
                self.peak = max(self.peak, item.untyped_storage().nbytes())
        return result

    def end_call(self, *, keep: bool) -> None:
        """Note the call that just ended; `keep`: what it left behind stays in use."""
        now, peak = tracemalloc.get_traced_memory()
        self.peak = max(self.peak, self.held + peak - self.before)
        if keep:
            self.held += now - self.before


@contextmanager
def _memory(limit_mb: float | None) -> Iterator[_Meter | None]:
    """A meter if there is a limit to keep."""
    if limit_mb is None:
        yield None
        return
    mine = not tracemalloc.is_tracing()
    if mine:
        tracemalloc.start()
    try:
        yield _Meter()
    finally:
        if mine:
            tracemalloc.stop()
