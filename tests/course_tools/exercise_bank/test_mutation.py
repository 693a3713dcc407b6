"""Small changes to every solution are wrong answers: the hidden checks reject them all.

Here a seeded sample; `make test-mutants` runs all of them (.ci/run does).
"""

import ast

import pytest

from course_lib.checks.script import Call, Case
from course_tools.exercise_bank.claims import Claim, Hidden, WrongError
from course_tools.exercise_bank.load import Bank, ExerciseFacts
from course_tools.exercise_bank.mutants import added_lines, mutants, normal_form
from course_tools.exercise_bank.mutation import (
    all_mutants,
    equivalents,
    is_equivalent,
    report,
    run_mutants,
    sample,
)
from tests.helpers.exercise_bank import SUMMARY, bank, numbers

EACH = 20
SOURCE = '''\
def answer(x, y=1):
    """Something."""
    ### BEGIN SOLUTION
    total = 0
    for i in range(1, x):
        if i <= y and x > 2:
            total = total + i * 2
    return total, [x, y][:1]
    ### END SOLUTION
'''


def test_mutants_are_different_programs_each_with_one_change():
    found = mutants("1.1", SOURCE, "answer")
    texts = [m.source for m in found]
    assert len(set(texts)) == len(texts) > 40 and normal_form(SOURCE) not in texts
    for text in texts:
        ast.parse(text)
        assert len([line for line in added_lines(normal_form(SOURCE), text).splitlines()]) <= 6
    changes = " ".join(m.change for m in found)
    for kind in ("LtE becomes Lt", "becomes 2", "Add becomes Sub", "And becomes Or", "negated",
                 "statement removed", "arguments 0 and 1 swapped", "end of a slice",
                 "returned parts", "returns nothing", "argument 0 removed"):  # fmt: skip
        assert kind in changes, kind


def mini(judge, solution=SOURCE):
    facts = ExerciseFacts("1.1", "answer", 1, 1, 1, "core", 1, solution, "Title")
    claim = Claim("it is right", lambda rng: [Case([Call([5, 3])], seconds=1.0)], judge)
    return Bank(None, exercises={"1.1": facts}, hidden={"1.1": Hidden("1.1", [claim])})


def test_a_check_that_accepts_everything_leaves_survivors_and_a_strict_one_few():
    todo = mutants("1.1", SOURCE, "answer")

    def strict(cases, outcomes):
        if outcomes[0].values[0] != (12, [5]):
            raise WrongError("no")

    lax = [r for r in run_mutants(mini(lambda c, o: None), todo) if r.killed_by is None]
    left = [r for r in run_mutants(mini(strict), todo) if r.killed_by is None]
    assert len(lax) > len(todo) / 2 and len(left) < len(lax) / 2


def test_a_mutant_that_loops_kills_itself_or_eats_memory_is_rejected_and_the_rest_goes_on():
    def source(line):
        return f"def answer(x, y):\n    {line}\n    return x"

    lines = ["while True: pass", "import os; os._exit(0)", "x = bytearray(10**12)", "pass"]
    todo = [
        mutants("1.1", source("z = 1"), "answer")[0].__class__("1.1", w, source(w)) for w in lines
    ]
    results = run_mutants(mini(lambda c, o: None), todo)
    assert [r.killed_by is None for r in results] == [False, False, False, True]
    assert "died" in results[1].killed_by and "loop" in results[0].killed_by


@pytest.mark.parametrize("number", numbers())
def test_at_most_one_in_twenty_mutants_is_argued_equivalent_each_with_a_reason(number):
    known, facts = equivalents(bank().root), bank().exercises[number]
    found = mutants(number, facts.source, facts.answer)
    whole = normal_form(facts.source)
    argued = [m for m in found if is_equivalent(m, whole, known)]
    assert len(argued) == len(known.get(number, {})), "an argument for a mutant that is not there"
    assert len(argued) <= 0.05 * len(found)
    assert all(len(why) > 30 for why in known.get(number, {}).values())


def test_a_sample_of_all_mutants_is_rejected(capsys):
    todo = sample(all_mutants(bank()), EACH, seed=6)
    assert not report(bank(), run_mutants(bank(), todo))
    lines = capsys.readouterr().out.splitlines()
    SUMMARY.append(f"mutants, a sample of {EACH} an exercise:")
    SUMMARY.extend(f"  {line}" for line in lines)
