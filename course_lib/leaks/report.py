"""What a battery of tests answers: a verdict a test, with a few words about why."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Verdict = Literal["pass", "FAIL", "n/a"]


@dataclass(frozen=True)
class AuditResult:
    """The outcome of one test: its name, the verdict, and a few words about why."""

    name: str
    verdict: Verdict
    why: str


@dataclass(frozen=True)
class AuditReport:
    """The outcome of a battery; prints as one line a test.

    Attributes:
        results: in the order of the tests.
    """

    results: tuple[AuditResult, ...]

    @property
    def failed(self) -> list[str]:
        """Names of the tests that failed."""
        return [f.name for f in self.results if f.verdict == "FAIL"]

    @property
    def ok(self) -> bool:
        """Whether nothing failed, and at least one test could be run."""
        return not self.failed and any(f.verdict == "pass" for f in self.results)

    def verdict(self, name: str) -> Verdict:
        """The verdict of one test.

        Raises:
            ValueError: if there is no test of that name.
        """
        for result in self.results:
            if result.name == name:
                return result.verdict
        known = ", ".join(f.name for f in self.results)
        raise ValueError(f"name: expected one of {known}; got {name!r}")

    def __str__(self) -> str:
        width = max(len(f.name) for f in self.results)
        return "\n".join(f"{f.verdict:<4}  {f.name:<{width}}  {f.why}" for f in self.results)

    __repr__ = __str__


class FoundError(Exception):
    """A test has found something; its message is the line of the report."""


class SkippedError(Exception):
    """A test cannot be run; its message says why."""


def run_tests(tests: dict[str, Callable[[], str]]) -> AuditReport:
    """Each test's words, or what it raised."""
    results = []
    for name, test in tests.items():
        try:
            result = AuditResult(name, "pass", test())
        except SkippedError as reason:
            result = AuditResult(name, "n/a", str(reason))
        except FoundError as failure:
            result = AuditResult(name, "FAIL", str(failure))
        except Exception as error:  # the model's own: it is what the reader wants to know
            result = AuditResult(
                name, "FAIL", f"raises {type(error).__name__}: {first_line(error)}"
            )
        results.append(result)
    return AuditReport(tuple(results))


def check_finite(values: Tensor, what: str) -> None:
    """Fail if a number is NaN or infinite."""
    bad = ~torch.isfinite(values)
    if bool(bad.any()):
        kind = "NaN" if bool(torch.isnan(values).any()) else "infinite"
        raise FoundError(f"{int(bad.sum())} of {values.numel()} {what} are {kind}")


def short_name(dtype: torch.dtype) -> str:
    """The name without its module: float16."""
    return str(dtype).removeprefix("torch.")


def first_line(error: BaseException, most: int = 80) -> str:
    """What an error says, in one line of at most so many letters."""
    line = (str(error).splitlines() or [""])[0]
    return line if len(line) <= most else line[: most - 3] + "..."
