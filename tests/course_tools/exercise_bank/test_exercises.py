"""The exercises: complete, unsolved where they should be, and checks that cannot be fooled."""

import ast
import contextlib
import io
import itertools
import re
import sys
from pathlib import Path

import nbformat
import pytest

from course_lib.checks import data as shipped
from course_lib.checks import report
from course_tools.build.exercises import data, stub
from course_tools.exercise_bank.evaluate import UNREADABLE, can_grade, evaluate, fraction
from course_tools.exercise_bank.load import BEGIN, END, exercise_sources, read_exercise_source
from tests.helpers.exercise_bank import ROOT, SUMMARY, bank, chapters, numbers

#: Number -> the name that students define (DESIGN.md, section 4).
NAMES = {
    "1.1": "sequence_log_prob", "1.2": "shift", "1.3": "influence", "1.4": "entropy_floor",
    "2.1": "MATRIX", "2.2": "causal_mask", "2.3": "causal_mask_at", "2.4": "to_bias",
    "2.5": "open_row", "2.6": "ROW_WEIGHTS",
    "3.1": "ON_WEIGHTS", "3.2": "ROW", "3.3": "masked_softmax", "3.4": "SCORES",
    "3.5": "causal_attention",
    "4.1": "multi_head_causal_attention", "4.2": "causal_and_padding", "4.3": "document_mask",
    "4.4": "for_multihead_attention", "4.5": "SHAPES",
    "5.1": "cached_outputs", "5.2": "attend_chunk", "5.3": "StaticCache", "5.4": "RingCache",
    "5.5": "kv_cache_bytes", "5.6": "generate",
    "6.1": "prefix_lm_mask", "6.2": "PREFIX_WEIGHTS", "6.3": "sliding_window_mask",
    "6.4": "suffix_targets", "6.5": "valid_entries",
    "7.1": "online_softmax_update", "7.2": "count_tiles", "7.3": "flash_attention",
    "7.4": "attention_flops", "7.5": "triton_attention",
}  # fmt: skip
CORE = {
    "1.2", "1.3", "2.2", "2.3", "3.2", "3.3", "3.5", "4.1", "4.2", "5.2", "5.3", "5.5", "6.1",
    "7.1", "7.2",
}  # fmt: skip
#: Seeds of the hidden inputs; a wrong answer must fall at every one of them.
SEEDS = (0, 1)
SOURCES = list(exercise_sources(ROOT).values())
IDS = [file.stem for file in SOURCES]


def notebook(folder, source):
    return nbformat.read(ROOT / folder / f"{source.stem}.ipynb", 4)


def answer_cells(source):
    return [cell for cell in read_exercise_source(source).cells if "exercise" in cell.metadata]


def wrong_answers(number):
    """Each misconception of an exercise in each of its writings."""
    for misconception in bank().misconceptions[number]:
        for answer in (misconception.answer, *misconception.variants):
            yield misconception, answer


def examined(number, answer):
    with contextlib.redirect_stdout(io.StringIO()):
        return report.examine(number, answer)


# --- what there is -------------------------------------------------------------------------------


def test_the_exercises_are_those_of_the_design():
    assert {n: f.answer for n, f in bank().exercises.items()} == NAMES
    assert {n for n, f in bank().exercises.items() if f.path == "core"} == CORE
    for number, facts in bank().exercises.items():
        assert facts.path in ("core", "stretch"), number
        assert facts.difficulty in (1, 2, 3) and facts.points > 0 and facts.minutes > 0


@pytest.mark.parametrize("number", numbers())
def test_an_exercise_has_checks_misconceptions_and_accepted_answers(number):
    assert bank().visible[number].claims and bank().hidden[number].claims
    names = [m.name for m in bank().misconceptions[number]]
    assert len(names) == len(set(names)) >= 4
    assert len(bank().accepted[number]) >= 3
    for misconception in bank().misconceptions[number]:
        assert len(misconception.says) > 30, "a tutor says more than that"


@pytest.mark.parametrize("number", numbers())
def test_what_to_read_again_exists(number):
    path, _, anchor = bank().visible[number].again.partition("#")
    text = "\n".join(c.source for c in nbformat.read(ROOT / path, 4).cells)
    headings = re.findall(r"^#+ (.+?)\s*$", text, re.MULTILINE)
    assert anchor in {heading.replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("number", numbers())
def test_an_answer_needs_numpy_and_torch_and_no_course_lib(number):
    facts = bank().exercises[number]
    allowed = {"numpy", "torch"} | sys.stdlib_module_names
    if number == "7.5":
        allowed |= {"triton"}
    for node in ast.walk(ast.parse(facts.source)):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= allowed
        elif isinstance(node, ast.ImportFrom):
            assert node.module.split(".")[0] in allowed


# --- exercise notebooks --------------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES, ids=IDS)
def test_every_stub_line_stands_for_a_solution_and_nothing_else_changed(source):
    solved = {c.metadata["exercise"]: c for c in answer_cells(source)}
    by_id = {c.id: c for c in notebook("exercises", source).cells}
    badge = notebook("exercises", source).cells[1].id
    for cell in (c for c in notebook("solutions", source).cells if c.id != badge):
        grading = cell.metadata.get("nbgrader", {})
        if not grading.get("solution"):
            assert by_id[cell.id].source == cell.source
            continue
        number = grading["grade_id"].removeprefix("answer-").replace("-", ".")
        answer = solved[number].metadata["answer"]
        assert by_id[cell.id].source == stub(cell.source, number, answer)
        assert _with_blocks_cut(cell.source) == _with_stubs_cut(by_id[cell.id].source, number)


def _with_blocks_cut(source):
    out, inside = [], False
    for line in source.splitlines():
        if END in line:
            inside = False
            out.append("HERE")
        inside = inside or BEGIN in line
        out += [] if inside or END in line else [line]
    return out


def _with_stubs_cut(source, number):
    marks = (f'raise NotImplementedError("{number}: your code here")', f"# {number}: your answer")
    return ["HERE" if any(m in line for m in marks) else line for line in source.splitlines()]


def test_no_solution_line_is_in_any_exercise_notebook():
    shown = {
        line.strip()
        for source in SOURCES
        for cell in notebook("exercises", source).cells
        if cell.cell_type == "code"
        for line in cell.source.splitlines()
    }
    for source in SOURCES:
        for cell in answer_cells(source):
            blocks = re.findall(rf"{BEGIN}(.*?){END}", cell.source, re.DOTALL)
            given = {line.strip() for line in _with_blocks_cut(cell.source)}
            for line in "\n".join(blocks).splitlines():
                telling = len(line.strip()) > 12 and not line.strip().startswith("#")
                if telling and line.strip() not in given:
                    assert line.strip() not in shown, f"{source.stem}: {line.strip()}"


@pytest.mark.parametrize("source", SOURCES, ids=IDS)
def test_an_exercise_notebook_runs_and_every_check_says_not_done_yet(source):
    checks = 0
    for cell in notebook("exercises", source).cells:
        if cell.cell_type != "code":
            continue
        assert cell.execution_count is not None
        assert all(output.output_type == "stream" for output in cell.outputs), cell.id
        if cell.source.startswith("check("):
            checks += 1
            (output,) = cell.outputs
            assert output.text.endswith(": not done yet\n") and output.text.count("\n") == 1
        if cell.source.startswith("ask("):
            assert "not answered yet" in cell.outputs[0].text
    assert checks == len(answer_cells(source))


@pytest.mark.parametrize("folder", ["exercises", "solutions"])
@pytest.mark.parametrize("source", SOURCES, ids=IDS)
def test_nbgrader_can_collect_and_grade_by_hand(source, folder):
    cells = notebook(folder, source).cells
    graded = [c.metadata["nbgrader"] for c in cells if "nbgrader" in c.metadata]
    ids = [meta["grade_id"] for meta in graded]
    assert len(set(ids)) == len(ids)
    points = {c.metadata["exercise"]: c.metadata["points"] for c in answer_cells(source)}
    for cell in cells:
        meta = cell.metadata.get("nbgrader")
        if meta is None:
            continue
        assert meta["schema_version"] == 3 and meta["cell_type"] == cell.cell_type
        assert re.fullmatch(r"[A-Za-z0-9_-]+", meta["grade_id"])
        answer = meta["grade_id"].startswith("answer-")
        assert meta["grade"] == meta["solution"] == answer == (not meta["locked"])
        assert answer == ("points" in meta) and meta["task"] is False
        if answer:
            number = meta["grade_id"].removeprefix("answer-").replace("-", ".")
            assert points.pop(number) == meta["points"]
        else:
            assert cell.metadata["editable"] is False
    assert not points


@pytest.mark.parametrize("source", SOURCES, ids=IDS)
def test_every_task_states_its_facts_and_has_two_folded_hints(source):
    text = ""
    for cell in notebook("exercises", source).cells:
        heading = re.match(r"## (\d\.\d) ", cell.source)
        if cell.cell_type == "markdown":
            text = cell.source if heading else text + cell.source
            too_long = [w for w in re.findall(r"<summary>.*?</summary>", cell.source) if "`" in w]
            assert not too_long, "use <code> in HTML"
        if cell.metadata.get("nbgrader", {}).get("solution"):
            assert text.count("<details>") == text.count("</details>") == 2
            assert re.search(r"\*\*\d+ points? · about \d+ minutes · \w+ · \w+ path\*\*", text)


@pytest.mark.parametrize("source", SOURCES, ids=IDS)
def test_a_solution_notebook_passes_its_own_checks(source):
    for cell in notebook("solutions", source).cells:
        if cell.cell_type == "code":
            assert cell.execution_count is not None
        if cell.source.startswith("check("):
            (output,) = cell.outputs
            assert "✗" not in output.text and re.search(r"claims? holds?\.\n$", output.text)


@pytest.mark.parametrize("source", SOURCES, ids=IDS)
def test_concept_questions_have_options_and_explanations(source):
    cells, asked = read_exercise_source(source).cells, []
    for before, cell in itertools.pairwise(cells):
        found = re.match(r'ask\("([^"]+)", ""\)', cell.source)
        if found:
            asked.append(found[1])
            assert before.source.startswith(f"## {found[1]} ")
            letters = re.findall(r"^[-*] \**\(?([a-z])\)?[.:)]?\** ", before.source, re.MULTILINE)
            question = bank().questions[found[1]]
            assert letters == list(question.options) and question.right in letters
            assert all(len(words) > 30 for words in question.options.values())
    chapter = str(int(source.stem[:2]))
    assert asked == [n for n in bank().questions if n.split(".")[0] == chapter]
    assert asked, "every chapter has recap questions"


# --- the data that ships -------------------------------------------------------------------------


@pytest.mark.parametrize("chapter", chapters())
def test_the_data_of_the_checks_is_up_to_date(chapter):
    assert data(ROOT, chapter, check=True) == []


@pytest.mark.parametrize("number", numbers())
def test_what_ships_holds_no_value_that_an_exercise_asks_for(number):
    entry = shipped.exercise(number)
    is_value = NAMES[number].isupper()
    assert is_value == ("value" in entry)
    if is_value:
        text = str(entry["value"]) + str([m["value"] for m in entry["mistakes"]])
        assert all("want" not in claim for claim in entry["claims"])
        fields = set(re.findall(r"'(\w+)':", text))
        assert fields <= {"want", "part", "shape", "shifts", "digits", "hash"}


# --- right answers -------------------------------------------------------------------------------


@pytest.mark.parametrize("number", numbers())
def test_the_solution_and_every_accepted_answer_get_full_marks(number):
    hidden = bank().hidden[number]
    if not can_grade(hidden):
        pytest.skip(f"needs {hidden.needs}")
    for place, answer in enumerate([bank().solution(number), *bank().accepted[number]]):
        seen = examined(number, answer)
        assert seen.state == "passed", f"answer {place}:\n{seen.text()}"
        for seed in SEEDS:
            results = evaluate(answer, hidden, seed)
            wrong = [f"{claim.says}: {why}" for claim, why in results if why]
            assert not wrong and fraction(results) == 1.0, f"answer {place}, seed {seed}: {wrong}"


# --- wrong answers -------------------------------------------------------------------------------


@pytest.mark.parametrize("number", numbers())
def test_every_misconception_is_rejected_by_the_hidden_checks_and_seen_by_the_visible(number):
    hidden = bank().hidden[number]
    if not can_grade(hidden):
        pytest.skip(f"needs {hidden.needs}")
    for misconception, answer in wrong_answers(number):
        for seed in SEEDS:
            results = evaluate(answer, hidden, seed, stop_at_first=True)
            complaints = [why for _, why in results if why]
            assert complaints, f"{misconception.name}: full marks at seed {seed}"
            assert not any(UNREADABLE in why for why in complaints), complaints


def test_nine_in_ten_misconceptions_are_diagnosed_by_name_however_they_are_written():
    named, missed = 0, []
    for number in numbers():
        if not can_grade(bank().hidden[number]):
            continue
        for misconception, answer in wrong_answers(number):
            if examined(number, answer).diagnosis == misconception.name:
                named += 1
            else:
                missed.append(f"{number} {misconception.name}")
    share = named / (named + len(missed))
    SUMMARY.append(
        f"misconceptions diagnosed by name: {named} of {named + len(missed)} ({share:.1%})"
    )
    SUMMARY.extend(f"  not by name: {line}" for line in missed)
    assert share >= 0.9, missed


def test_sources_of_the_exercises_are_spelled_in_full():
    for source in SOURCES:
        for line in Path(source).read_text("utf-8").splitlines():
            assert len(line) <= 100 or line.startswith("#"), f"{source.name}: {line}"
