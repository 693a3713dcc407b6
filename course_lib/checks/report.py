"""`check` and `ask`: what a tutor would say about an answer (every exercise notebook).

The student's answer runs on the visible inputs; the data beside this module says what a right
answer returns there, and what each known wrong one returns. If all outputs match those of a known
wrong answer, it is named.
"""

import contextlib
import importlib.util
import io
import re
import sys
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from course_lib.checks import data, digest, properties
from course_lib.checks.compare import (
    Compare,
    Difference,
    Rule,
    as_array,
    describe_problem,
    difference,
    evidence,
    same_thought,
)
from course_lib.checks.encode import decode, error_summary
from course_lib.checks.picture import Picture
from course_lib.checks.run import run_script
from course_lib.checks.script import Case, Outcome
from course_lib.example import TOKENS

#: So many wrong entries must agree with a known mistake for it to be named beside another one.
_ENOUGH = 2.0
#: Problems after which nothing else is tried.
_FINAL = ("interrupted", "time")
_WIDTH = 94
#: So many lines of an answer's own prints are shown.
_PRINTED = 20
#: *Emphasis* of a sentence that is also shown on pages; a terminal has none.
_EMPHASIS = re.compile(r"(?<![\w*])\*(\S|\S[^*\n]*\S)\*(?![\w*])")


@dataclass
class Line:
    """One claim of a report: `finding` is None if it holds."""

    says: str
    finding: Difference | None = None
    note: str = ""


@dataclass
class CheckReport:
    """What a check found.

    Attributes:
        number: of the exercise.
        name: what the student was asked to define.
        state: "passed", "failed", "not done" or "skipped".
        lines: the claims.
        diagnosis: name of the misconception that the answer looks like, or None.
        in_part: the misconception does not explain all that is wrong.
        advice: the tutor's sentences.
        again: what to read again.
        note: one more remark.
    """

    number: str
    name: str
    state: str = "passed"
    lines: list[Line] = field(default_factory=list)
    diagnosis: str | None = None
    in_part: bool = False
    advice: str = ""
    again: str = ""
    note: str = ""

    def text(self) -> str:
        """The report without its picture."""
        if self.state in ("not done", "skipped"):
            return f"{self.number} {self.name}: {self.note}"
        out, texts = [f"{self.number} {self.name}"], set()
        for line in self.lines:
            if line.finding is None:
                out.append(f"  ✓ {line.says}")
                continue
            note = f" ({line.note})" if line.note else ""
            out.append(f"  ✗ {line.says}{note}")
            again = line.finding.text in texts
            texts.add(line.finding.text)
            out.append(_indented("As above." if again else _sentence(line.finding.text), 6))
        held = sum(line.finding is None for line in self.lines)
        if self.diagnosis:
            start = "In part this looks like" if self.in_part else "This looks like"
            out += ["", _indented(f"{start}: {self.diagnosis}.", 2)]
            out.append(_indented(_EMPHASIS.sub(r"\1", self.advice), 2))
        if self.note:
            out.append(_indented(self.note, 2))
        if self.state == "failed":
            if self.again:
                out.append(_indented(f"Read again: {_place(self.again)}", 2))
            out.append(f"{held} of {len(self.lines)} claims hold.")
        else:
            out.append(f"All {held} claims hold." if held != 1 else "The claim holds.")
        return "\n".join(out)

    def picture(self) -> Picture | None:
        """The student's matrix with the wrong cells framed, if there is one to show."""
        for line in self.lines:
            found = line.finding
            if found is not None and found.got is not None and found.wrong is not None:
                return Picture(found.got, found.wrong, found.labels, line.note)
        return None


def check(number: str, answer: object) -> None:
    """Try an answer on a few inputs and say what holds, and what a tutor would say.

    Args:
        number: of the exercise, "2.2".
        answer: the function or class itself, or the value that the exercise asks for.
    """
    try:
        entry = data.exercise(str(number))
    except KeyError as error:
        print(f"check: {error.args[0]}")
        return
    prints = _FirstLines(sys.stdout)
    try:
        with contextlib.redirect_stdout(prints):
            report = examine(str(number), answer)
        text = report.text()
    except KeyboardInterrupt:
        print(f"{number}: interrupted; nothing was checked")
        return
    except Exception as error:
        print(
            f"{number} {entry['answer']}: the check could not finish ({type(error).__name__}). "
            "Something that it needs was changed in this session: restart the kernel, run your "
            "cells again, and look for code that changes names or types of NumPy or torch."
        )
        return
    if prints.left_out:
        print(f"… ({prints.left_out} more lines that your code printed)")
    print(text)
    picture = report.picture()
    if picture is not None:
        _show(picture)


class _FirstLines(io.TextIOBase):
    """Passes on the first lines that an answer prints, so that the report stays in sight."""

    def __init__(self, out: Any) -> None:
        self.out, self.lines, self.left_out = out, 0, 0

    def write(self, text: str) -> int:
        for line in text.splitlines(keepends=True):
            if self.lines < _PRINTED:
                self.out.write(line[:1000] + ("…\n" if len(line) > 1000 else ""))
                self.lines += len(line) > 1000 or line.endswith("\n")
            else:
                self.left_out += line.endswith("\n")
        return len(text)

    def close(self) -> None:
        """The cell's own output stays open."""


def ask(number: str, letter: str) -> None:
    """Answer a concept question; the explanation comes after an attempt.

    Args:
        number: of the question, "2.A".
        letter: of your option; "" while you think.
    """
    try:
        entry = data.question(str(number))
    except KeyError as error:
        print(f"ask: {error.args[0]}")
        return
    choice, options = str(letter or "").strip().lower(), entry["options"]
    if not choice:
        print(
            f"{number}: not answered yet. Put your letter between the quotation marks; "
            "the explanation comes after an attempt."
        )
    elif choice not in options:
        print(f"{number}: there is no option {letter!r}; there are {', '.join(options)}.")
    else:
        right = choice == entry["right"]
        word = "Right." if right else "Not quite."
        words = _EMPHASIS.sub(r"\1", options[choice])
        print(_indented(f"{number} {choice}: {word} {words}", 0))
        if not right:
            print("Choose again: the explanation of the right one comes with it.")


def examine(number: str, answer: object) -> CheckReport:
    """What `check` prints, as data.

    Args:
        number: of the exercise.
        answer: the student's.

    Raises:
        KeyError: for an unknown number.
    """
    entry = data.exercise(number)
    needs = entry.get("needs")
    if needs and importlib.util.find_spec(needs) is None:
        note = f"skipped, because {needs} is not installed here (it exists for Linux only)."
        note += " Nothing is wrong with your answer."
        return CheckReport(number, entry["answer"], "skipped", note=note)
    report = report_on(number, _run_all(visible_cases(number), answer))
    if report.state == "failed":
        report.note = _other_name(entry["answer"], answer)
    return report


def visible_cases(number: str) -> list[list[Case]]:
    """The scripts of an exercise's visible check, a list a claim.

    Raises:
        KeyError: for an unknown number.
    """
    return [[decode(case) for case in claim["cases"]] for claim in data.exercise(number)["claims"]]


def report_on(number: str, outcomes: Sequence[Sequence[Outcome]]) -> CheckReport:
    """The report on what came back, wherever the scripts ran.

    Args:
        number: of the exercise.
        outcomes: of `visible_cases`, a list a claim; shorter if the scripts had to be stopped.

    Raises:
        KeyError: for an unknown number.
    """
    entry = data.exercise(number)
    report = CheckReport(number, entry["answer"], again=entry.get("again", ""))
    first = next((o.problem for o in _flat(outcomes) if o.problem is not None), None)
    if first is not None and first.kind == "not done":
        report.state, report.note = "not done", "not done yet"
        return report
    salt = _salt(number)
    for claim, results in zip(entry["claims"], outcomes, strict=False):
        report.lines.append(_judged(claim, results, entry, salt, report))
    for claim in entry["claims"][len(outcomes) :]:
        report.lines.append(Line(claim["says"], Difference("not tried")))
    if any(line.finding is not None for line in report.lines):
        report.state = "failed"
        _diagnose(report, entry, outcomes, salt)
    return report


# --- running and judging -------------------------------------------------------------------------


def _run_all(claims: Sequence[Sequence[Case]], answer: object) -> list[list[Outcome]]:
    """The outcomes, a list a claim; shorter if a script had to be stopped."""
    outcomes: list[list[Outcome]] = []
    for cases in claims:
        outcomes.append([])
        for case in cases:
            with warnings.catch_warnings():
                # Extreme inputs make right code warn too; what counts is what it returns.
                warnings.simplefilter("ignore")
                outcomes[-1].append(run_script(answer, case))
            problem = outcomes[-1][-1].problem
            if problem is not None and problem.kind in (*_FINAL, "not done"):
                return outcomes
    return outcomes


def _judged(
    claim: dict[str, Any],
    results: Sequence[Outcome],
    entry: dict[str, Any],
    salt: str,
    report: CheckReport,
) -> Line:
    rule, cases = rule_of(claim), [decode(case) for case in claim["cases"]]
    for i, outcome in enumerate(results):
        note = cases[i].note
        if claim["compare"].startswith("property:"):
            finding = _property(claim, cases[i], outcome, report)
        elif "value" in entry:
            finding = _value_differs(outcome, entry["value"]["want"], salt)
        else:
            want = decode(claim["want"][i])
            finding = difference(outcome, want, rule, _steps(cases[i]))
        if finding is not None:
            return Line(claim["says"], finding, note)
    return Line(claim["says"])


def _steps(case: Case) -> list[str]:
    """The calls of a script by their names, such as "in step 3, view()"."""
    return [
        f"call {i}" if call.method is None else f"in step {i}, {call.method}()"
        for i, call in enumerate(case.calls, 1 - any(call.method for call in case.calls))
    ]


def rule_of(claim: dict[str, Any]) -> Rule:
    """How the values of a claim are compared."""
    labels = claim.get("labels", ())
    if not labels and claim["compare"] == "mask":
        labels = TOKENS
    compare: Compare = claim["compare"] if claim["compare"] in ("equal", "mask") else "close"
    return Rule(compare, claim["rtol"], claim["atol"], labels, claim.get("results", ()))


def _property(
    claim: dict[str, Any], case: Case, outcome: Outcome, report: CheckReport
) -> Difference | None:
    if outcome.problem is not None:
        return Difference(describe_problem(outcome.problem))
    name = claim["compare"].removeprefix("property:")
    try:
        sentence = getattr(properties, name)(case, outcome)
    except Exception:  # a property that expects an array and gets something else
        return Difference("what you return does not have the form that the task asks for")
    if isinstance(sentence, properties.Mistake) and report.diagnosis is None:
        report.diagnosis = sentence.name
    return None if sentence is None else Difference(str(sentence))


def _value_differs(outcome: Outcome, want: list[dict[str, Any]], salt: str) -> Difference | None:
    if outcome.problem is not None:
        return Difference(describe_problem(outcome.problem))
    try:
        wrong = digest.mismatches(outcome.values[0], want, salt)
    except (TypeError, ValueError, OverflowError):
        wrong = ["shape"]
    if not wrong:
        return None
    if wrong == ["shape"]:
        array = as_array(outcome.values[0])
        kind = type(outcome.values[0]).__name__
        got = f"a {kind}" if array is None else f"shape {list(array.shape)}"
        return Difference(f"your answer ({got}) does not have the shape that the task asks for")
    if wrong == ["the value"]:
        return Difference("that is not it")
    return Difference(f"not right: {', '.join(wrong)}")


def _diagnose(
    report: CheckReport, entry: dict[str, Any], outcomes: Sequence[Sequence[Outcome]], salt: str
) -> None:
    name = report.diagnosis  # of a property
    if "value" in entry:
        found = _named_value(entry, outcomes, salt)
    else:
        found = _named(entry, outcomes, strict=True)
        if found is None and name is None:
            found = _named(entry, outcomes, strict=False)
        if found is None and name is None:
            found = _named_in_part(entry, outcomes)
            report.in_part = found is not None
    name = found or name
    advice = {m["name"]: m["says"] for m in entry["mistakes"]}
    report.diagnosis = name if name in advice else None
    report.advice = advice.get(name or "", "")


@dataclass(frozen=True)
class _Trial:
    """One case: what the student, a known mistake and a right answer return."""

    got: Outcome
    other: Outcome
    want: Outcome
    rule: Rule


def _trials(
    entry: dict[str, Any], mistake: dict[str, Any], outcomes: Sequence[Sequence[Outcome]]
) -> list[_Trial]:
    """Those cases that the student's answer ran on."""
    return [
        _Trial(got, decode(other), decode(want), rule_of(claim))
        for claim, results, others in zip(entry["claims"], outcomes, mistake["got"], strict=False)
        for got, other, want in zip(results, others, claim["want"], strict=False)
    ]


def _named(
    entry: dict[str, Any], outcomes: Sequence[Sequence[Outcome]], *, strict: bool
) -> str | None:
    """The first known mistake whose outcomes are all those of the student."""
    for mistake in entry["mistakes"]:
        trials = _trials(entry, mistake, outcomes)
        if not all(same_thought(t.got, t.other, t.rule, strict=strict) for t in trials):
            continue
        if not strict and all(same_thought(t.other, t.want, t.rule, strict=False) for t in trials):
            continue  # it differs from a right answer in something else
        problems = [(t.got.problem, t.other.problem) for t in trials]
        if all(a and b and error_summary(a) != error_summary(b) for a, b in problems):
            continue  # any error would look like this one
        return mistake["name"]
    return None


def _named_in_part(entry: dict[str, Any], outcomes: Sequence[Sequence[Outcome]]) -> str | None:
    """The mistake that explains most of what is wrong, if nothing that is right speaks against it.

    An answer can be wrong in two ways at once; where one of them is known, it is named.
    """
    best, most = None, _ENOUGH
    for mistake in entry["mistakes"]:
        weight, explained, unexplained = 0.0, 0, 0
        for t in _trials(entry, mistake, outcomes):
            harmless = same_thought(t.other, t.want, t.rule, strict=False)
            if same_thought(t.got, t.want, t.rule, strict=False):
                if not harmless:
                    weight = 0.0  # the student does right what this mistake does wrong
                    break
            elif t.got.problem is None and same_thought(t.got, t.other, t.rule, strict=False):
                explained += 1
                weight += evidence(t.other, t.want, t.rule)
            elif t.got.problem is None:
                unexplained += 1
        if weight > most and explained >= unexplained:
            best, most = mistake["name"], weight
    return best


def _named_value(
    entry: dict[str, Any], outcomes: Sequence[Sequence[Outcome]], salt: str
) -> str | None:
    outcome = outcomes[0][0]
    if outcome.problem is not None:
        return None
    for mistake in entry["mistakes"]:
        try:
            if digest.matches(outcome.values[0], mistake["value"], salt):
                return mistake["name"]
        except (TypeError, ValueError, OverflowError):
            continue
    return None


def _salt(number: str) -> str:
    return f"course {number} "


def _flat(outcomes: Sequence[Sequence[Outcome]]) -> list[Outcome]:
    return [o for results in outcomes for o in results]


# --- words ---------------------------------------------------------------------------------------


def _other_name(asked: str, answer: object) -> str:
    name = getattr(answer, "__name__", asked)
    if name in (asked, "<lambda>"):
        return ""
    return f"You passed {name}; the exercise asks for {asked}."


def _sentence(text: str) -> str:
    if not re.match(r"\S*\(", text):  # not the name of a method
        text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "?", "!", ":")) else text + "."


def _place(again: str) -> str:
    path, _, anchor = again.partition("#")
    section = anchor.replace("-", " ")
    return f'"{section}" in {path}' if section else path


def _indented(text: str, by: int) -> str:
    pad = " " * by
    lines = [
        textwrap.fill(
            line, _WIDTH, initial_indent=pad, subsequent_indent=pad,
            break_long_words=False, break_on_hyphens=False,
        )
        for line in text.splitlines()
    ]  # fmt: skip
    return "\n".join(lines)


def _show(picture: Picture) -> None:
    """As HTML where a notebook listens, else as text."""
    shell: Any = sys.modules.get("IPython")
    running = shell.get_ipython() if shell is not None else None
    if running is not None and getattr(running, "kernel", None) is not None:
        shell.display.display(picture)
    else:
        print(picture)
