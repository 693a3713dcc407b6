"""How long a sandbox may go on: what counts is what its processes compute, not how busy we are."""

import time
from collections.abc import Callable

#: A sandbox that computes for less than this share of the time idles: then the time counts.
_IDLE = 0.02
#: Seconds at least between two looks, and the time that may pass for one second that counts.
_STEP, _PATIENCE = 0.5, 6.0


class Clock:
    """Seconds that count against a sandbox: of its processors, or of waiting while it idles.

    Args:
        meter: processor seconds so far; it gives None where nobody counts them. Then a third of
            the time that passes counts, since a neighbour may take as much.
    """

    def __init__(self, meter: Callable[[], float | None]) -> None:
        self._meter = meter
        self._worked, self._waited, self._looked = meter(), 0.0, time.monotonic()
        self.spent = 0.0

    def waited(self, seconds: float) -> None:
        """So long we waited for the sandbox, and for nothing else; what counts is in `spent`."""
        self._waited += seconds
        now = time.monotonic()
        if now - self._looked < _STEP:
            return
        worked = self._meter()
        if worked is None or self._worked is None:
            self.spent += (now - self._looked) / 3
        else:
            did = max(0.0, worked - self._worked)
            self.spent += did if did > _IDLE * self._waited else self._waited
        self._worked, self._waited, self._looked = worked, 0.0, now


class Deadline:
    """So many seconds on a clock, or a multiple of them that pass.

    Args:
        clock: of the sandbox.
        seconds: that count.
    """

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock = clock
        self._at = clock.spent + seconds
        self._last = time.monotonic() + _PATIENCE * seconds

    @property
    def left(self) -> float:
        """Seconds that are left; 0 if it is over."""
        passing = (self._last - time.monotonic()) / _PATIENCE
        return max(0.0, min(self._at - self.clock.spent, passing))

    def shorten(self, seconds: float) -> None:
        """No more than so many from now on."""
        other = Deadline(self.clock, seconds)
        self._at, self._last = min(self._at, other._at), min(self._last, other._last)


def passing(seconds: float) -> Deadline:
    """A deadline for which all time counts that is waited."""
    return Deadline(Clock(lambda: 0.0), seconds)
