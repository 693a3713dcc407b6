"""`check` and `ask`: a clear line for everything that a student may hand in."""

import json
import subprocess
import sys
import textwrap
import threading
from collections import namedtuple

import numpy as np
import pytest
import torch

from course_lib.checks import ask, check, data, digest, properties, report
from course_lib.checks.callbacks import REGISTER
from course_lib.checks.encode import (
    LARGE,
    ArraySample,
    decode,
    encode,
    encode_outcome,
)
from course_lib.checks.picture import Picture
from course_lib.checks.run import run_script
from course_lib.checks.script import (
    Call,
    Callback,
    Case,
    Drawn,
    DType,
    NotPlainError,
    Outcome,
    Tensor,
    to_plain,
)
from course_tools.build.exercises import compute, stub
from course_tools.exercise_bank.claims import Misconception
from course_tools.exercise_bank.load import Bank, ExerciseFacts, Question, Visible, VisibleClaim

pytestmark = pytest.mark.fast

SOLUTIONS = {
    "9.1": ("causal_mask", "def causal_mask(n):\n    return np.tril(np.ones((n, n), bool))"),
    "9.2": ("ROW", "ROW = [0.2327, 0.3837, 0.3837, 0.0, 0.0]"),
    "9.3": ("Box", "class Box:\n    def __init__(self, n):\n        self.n, self.items = n, []\n"
            "    def append(self, x):\n        self.items.append(x.copy())\n"
            "    def view(self):\n        return np.concatenate(self.items)"),
    "9.4": ("softmax", "def softmax(x):\n    w = np.exp(x - x.max(-1, keepdims=True))\n"
            "    return w / w.sum(-1, keepdims=True)"),
    "9.5": ("pair", "def pair(x):\n    return x[:-1], x[1:]"),
}  # fmt: skip
READ = "notebooks/02_tril_mask.ipynb#Build-it-four-ways"


def upper(n):
    return np.triu(np.ones((n, n), bool), 1)


def softmax_over_columns(x):
    w = np.exp(x)
    return w / w.sum(0)


def writes_into_its_input(x):
    x -= x.max(-1, keepdims=True)
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def small_bank():
    facts = {
        n: ExerciseFacts(n, name, 1, 1, 1, "core", 9, source, "Title", "import numpy as np")
        for n, (name, source) in SOLUTIONS.items()
    }
    scores = np.array([[0.0, 1.0, 2.0], [3.0, 1.0, 0.5]])
    box = [
        Call([4], save="object"),
        Call([np.arange(2.0)], method="append", overwrite_args=True),
        Call([np.arange(2.0) + 5], method="append", overwrite_args=True),
        Call(method="view"),
    ]
    mask_claims = [
        VisibleClaim("row i may attend columns 0..i", [Case([Call([5])], "n = 5")], "mask"),
        VisibleClaim("one token sees itself", [Case([Call([1])], "n = 1")], "mask"),
    ]
    visible = {
        "9.1": Visible("9.1", mask_claims, READ),
        "9.2": Visible("9.2", [VisibleClaim("the weights", [Case([])], "close")]),
        "9.3": Visible("9.3", [VisibleClaim("it keeps copies", [Case(box)], "close")]),
        "9.4": Visible("9.4", [VisibleClaim("rows sum to one", [Case([Call([scores])])], "close")]),
        "9.5": Visible("9.5", [VisibleClaim("shifted by one", [Case([Call([np.arange(4)])])])]),
        "9.6": Visible("9.6", [VisibleClaim("it runs", [Case([Call([1])])])], needs="no_module"),
    }
    facts["9.6"] = ExerciseFacts("9.6", "f", 1, 1, 1, "core", 9, "def f(n):\n    return n", "T")
    wrong = {
        "9.1": [
            Misconception("9.1", "polarity inverted", upper, "True means: may attend."),
            Misconception("9.1", "numbers for a mask", lambda n: np.tril(np.ones((n, n))), "Bool."),
        ],
        "9.2": [Misconception("9.2", "no mask", [0.2, 0.2, 0.2, 0.2, 0.2], "The future counts.")],
        "9.4": [
            Misconception("9.4", "wrong axis", softmax_over_columns, "Which axis sums to one?"),
            Misconception("9.4", "input changed", writes_into_its_input, "Whose array is it?"),
        ],
    }
    questions = {"9.A": Question("9.A", "b", {"a": "Not it.", "b": "That is it."})}
    return Bank(None, facts, visible, {}, wrong, {}, questions)


@pytest.fixture(autouse=True)
def small_course(monkeypatch):
    chapter = json.loads(json.dumps(compute(small_bank(), 9)))
    empty = {"exercises": {}, "questions": {}}
    monkeypatch.setattr(data, "chapter", lambda n: chapter if n == 9 else empty)
    return chapter


def said(capsys, number, answer):
    check(number, answer)
    return capsys.readouterr().out


# --- right answers -------------------------------------------------------------------------------


def test_a_right_answer_gets_a_tick_for_each_claim(capsys):
    text = said(capsys, "9.1", small_bank().solution("9.1"))
    assert text == (
        "9.1 causal_mask\n  ✓ row i may attend columns 0..i\n  ✓ one token sees itself\n"
        "All 2 claims hold.\n"
    )


class Subclass(np.ndarray):
    """What np.asanyarray lets through."""


@pytest.mark.parametrize(
    "answer",
    [
        lambda n: torch.ones(n, n, dtype=torch.bool).tril(),
        lambda n: [[k <= q for k in range(n)] for q in range(n)],
        lambda n: np.tril(np.ones((n, n), bool)).view(Subclass),
        lambda n: np.triu(np.ones((n, n), bool)).T,
        lambda n: np.tri(9, dtype=bool)[:n, :n],
    ],
    ids=["torch", "nested lists", "a subclass", "a transposed view", "a view of more"],
)
def test_legal_forms_of_a_mask_pass(answer):
    assert report.examine("9.1", answer).state == "passed"


def test_tensors_with_gradients_and_wider_floats_pass():
    grow = torch.nn.Parameter(torch.ones((), dtype=torch.float64))
    right = small_bank().solution("9.4")
    assert report.examine("9.4", lambda x: torch.as_tensor(right(x)) * grow).state == "passed"
    assert report.examine("9.4", lambda x: right(x).astype(np.float32)).state == "passed"


def test_lists_tuples_and_named_tuples_of_results_pass():
    pair = namedtuple("pair", "inputs targets")
    for answer in (lambda x: [x[:-1], x[1:]], lambda x: pair(x[:-1], x[1:].tolist())):
        assert report.examine("9.5", answer).state == "passed"


# --- what a tutor says ---------------------------------------------------------------------------


def test_a_known_mistake_is_named_with_its_sentence_the_cell_and_what_to_read(capsys):
    text = said(capsys, "9.1", upper)
    assert "Row 0 (The), column 0 (The): you return False; expected True (25 of 25" in text
    assert "This looks like: polarity inverted.\n  True means: may attend." in text
    assert 'Read again: "Build it four ways" in notebooks/02_tril_mask.ipynb' in text
    assert "0 of 2 claims hold." in text
    assert "The    .*    T*" in text, "a picture in characters, where there is no notebook"


def test_the_same_mistake_written_differently_has_the_same_name():
    def masque(taille):
        rows = [[column > row for column in range(taille)] for row in range(taille)]
        return torch.tensor(rows)

    assert report.examine("9.1", masque).diagnosis == "polarity inverted"
    as_int = report.examine("9.1", lambda n: np.tril(np.ones((n, n), int)))
    assert as_int.diagnosis == "numbers for a mask"
    over_columns = report.examine("9.4", lambda s: torch.softmax(torch.as_tensor(s), dim=0))
    assert over_columns.diagnosis == "wrong axis"


def test_a_known_mistake_beside_another_one_is_named_in_part():
    def upper_and_no_single_token(n):
        return upper(n) if n > 1 else np.zeros((n, 7), bool)

    found = report.examine("9.1", upper_and_no_single_token)
    assert found.in_part and "In part this looks like: polarity inverted." in found.text()
    right_for_one = report.examine("9.1", lambda n: upper(n) if n > 1 else np.ones((1, 1), bool))
    assert right_for_one.diagnosis is None, "it does right what that mistake does wrong"


def test_an_unknown_mistake_gets_its_cell_and_no_false_name():
    found = report.examine("9.1", lambda n: np.tril(np.ones((n, n), bool), 1))
    assert found.diagnosis is None
    assert "Row 0 (The), column 1 (cat): you return True; expected False (4 of 25" in found.text()
    assert found.lines[1].finding is None


def test_a_changed_input_is_said_and_named(capsys):
    text = said(capsys, "9.4", writes_into_its_input)
    assert "writes into its input" in text and "This looks like: input changed." in text


def test_a_cache_that_keeps_references_is_caught_by_the_callers_next_write(capsys):
    class Box:
        def __init__(self, n):
            self.items = []

        def append(self, x):
            self.items.append(x)

        def view(self):
            return np.concatenate(self.items)

    assert "In step 3, view(): entry 0: you return 77.0000; expected 0" in said(capsys, "9.3", Box)
    assert report.examine("9.3", small_bank().solution("9.3")).state == "passed"


def test_a_value_is_checked_by_digest_with_room_for_the_last_digit(capsys):
    assert "The claim holds" in said(capsys, "9.2", [0.2327, 0.3837, 0.3837, 0, 0])
    assert "The claim holds" in said(capsys, "9.2", torch.tensor([0.233, 0.384, 0.384, 0, 0]))
    assert "The claim holds" in said(capsys, "9.2", np.array([0.2326, 0.3838, 0.3836, 0, 0]))
    assert "That is not it" in said(capsys, "9.2", [0.24, 0.38, 0.38, 0, 0])
    assert "no mask" in said(capsys, "9.2", [0.2] * 5)
    assert "does not have the shape" in said(capsys, "9.2", [0.2] * 4)
    for odd in ({"a": 1}, "0.2", [[0.2], [0.1, 0.2]], 10**400, [np.nan] * 5, [1j] * 5):
        assert "✗" in said(capsys, "9.2", odd)


def test_warnings_of_extreme_inputs_do_not_trouble_the_student(recwarn):
    report.examine("9.4", lambda x: np.exp(x * 10_000) / np.exp(x * 10_000).sum())
    assert not recwarn.list


def test_passing_another_function_is_remarked(capsys):
    assert "You passed upper; the exercise asks for causal_mask." in said(capsys, "9.1", upper)


# --- what is not an answer -----------------------------------------------------------------------


def not_implemented(n):
    raise NotImplementedError("9.1: your code here")


def test_a_stub_is_not_done_yet(capsys):
    assert said(capsys, "9.1", not_implemented) == "9.1 causal_mask: not done yet\n"
    assert said(capsys, "9.1", None) == "9.1 causal_mask: not done yet\n"
    assert said(capsys, "9.2", None) == "9.2 ROW: not done yet\n"


def ragged(n):
    return np.array([[1], [1, 2]], dtype=object)


def endless_container(n):
    loop = []
    loop.append(loop)
    return loop


def raises_with_a_cause(n):
    try:
        {}["key"]
    except KeyError as error:
        raise RuntimeError("wrapped") from error


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (5, "pass the function itself"),
        (np.eye(5, dtype=bool), "Got a result (ndarray); pass the function itself"),
        ("causal_mask", "without quotation marks"),
        (object(), "pass the function or the class itself"),
        (lambda: 1, "TypeError: <lambda>() takes 0 positional arguments but 1 was given"),
        (lambda n: None, "It returns None. Is a `return` missing?"),
        (lambda n: (x for x in range(n)), "It returns a generator; expected arrays"),
        (lambda n: {1, 2}, "It returns a set; expected arrays"),
        (lambda n: "mask", "You return a str; expected an array of shape [5, 5]"),
        (lambda n: {"mask": 1}, "You return a dict; expected an array of shape [5, 5]"),
        (ragged, "an array of Python objects (rows of unequal length?)"),
        (endless_container, "a container that holds itself"),
        (lambda n: np.ones(n, bool), "You return shape [5]; expected [5, 5]"),
        (lambda n: np.ones((n, n)), "Your mask has dtype float64; a mask is bool"),
        (lambda n: np.zeros((n, n), complex), "expected an array"),
        (lambda n: torch.empty(n, device="meta"), "no plain form"),
        (lambda n: 1 // 0, "ZeroDivisionError"),
        (lambda n: sys.exit("bye"), "SystemExit: bye"),
        (lambda n: (lambda f: f(f))(lambda f: f(f)), "RecursionError"),
        (raises_with_a_cause, "KeyError: 'key', in your line"),
    ],
)
def test_every_odd_answer_gets_a_clear_line_and_no_traceback(capsys, answer, words):
    text = said(capsys, "9.1", answer)
    assert words in text.replace("\n      ", " ")
    assert "Traceback" not in text and "course_lib" not in text
    assert "0 of 2 claims hold." in text


def test_the_students_own_line_is_shown_not_ours(capsys):
    space = {}
    code = "def causal_mask(n):\n    rows = range(n)\n    return rows @ n\n"
    exec(compile(code, "<ipython-input-7-abc>", "exec"), space)
    text = said(capsys, "9.1", space["causal_mask"])
    assert "in your line 3" in " ".join(text.split()) and "TypeError" in text


def test_an_object_where_the_class_is_asked_and_a_missing_method(capsys):
    box = small_bank().solution("9.3")
    assert "pass the function or the class itself" in said(capsys, "9.3", box(4))
    box = type("Box", (), {"__init__": lambda self, n: None})
    assert "A Box has no method append()." in said(capsys, "9.3", box)


def test_an_endless_loop_ends_with_a_question(capsys, small_course):
    def loop(n):
        while True:
            try:
                while True:
                    n += 1
            except Exception:
                n = 0

    for claim in small_course["exercises"]["9.1"]["claims"]:
        claim["cases"][0]["seconds"] = 0.2
    text = said(capsys, "9.1", loop)
    assert "Still running after 0.2 seconds. Is there a loop that never ends?" in text
    assert "Not tried." in text, "the other claims would take as long"


def test_an_interrupt_is_a_line_too(capsys):
    def interrupted(n):
        raise KeyboardInterrupt

    assert "Interrupted while it ran." in said(capsys, "9.1", interrupted)


def test_the_same_complaint_is_not_said_twice(capsys):
    text = said(capsys, "9.1", lambda n: None)
    assert text.count("It returns None") == 1 and text.count("As above.") == 1


def test_an_unknown_number_lists_the_known_ones(capsys):
    known = "9.1, 9.2, 9.3, 9.4, 9.5, 9.6"
    assert said(capsys, "9.9", upper) == f"check: there is no number '9.9'; there are {known}\n"
    assert known in said(capsys, "nine", upper) and known in said(capsys, 9, upper)
    assert "All 2 claims hold" in said(capsys, 9.1, small_bank().solution("9.1"))


def test_a_check_that_needs_a_missing_module_says_that_it_was_skipped(capsys):
    text = said(capsys, "9.6", lambda n: n)
    assert text.startswith("9.6 f: skipped, because no_module is not installed here")


def test_a_check_runs_in_a_thread_and_in_plain_python():
    found = []
    thread = threading.Thread(target=lambda: found.append(report.examine("9.1", upper)))
    thread.start()
    thread.join()
    assert found[0].diagnosis == "polarity inverted"


# --- concept questions ---------------------------------------------------------------------------


def test_a_question_explains_after_an_attempt_only(capsys):
    for letter, words in {
        "": "9.A: not answered yet",
        None: "9.A: not answered yet",
        " B ": "9.A b: Right. That is it.",
        "a": "9.A a: Not quite. Not it.\nChoose again",
        "z": "9.A: there is no option 'z'; there are a, b.",
        7: "9.A: there is no option 7",
    }.items():
        ask("9.A", letter)
        text = capsys.readouterr().out
        assert text.startswith(words)
        assert ("That is it" in text) == (letter == " B ")
    ask("9.Z", "a")
    assert capsys.readouterr().out == "ask: there is no number '9.Z'; there are 9.A\n"


# --- the picture ---------------------------------------------------------------------------------


def test_the_picture_has_words_a_frame_and_escaped_labels():
    values = np.array([[True, False], [True, True]])
    picture = Picture(values, np.array([[False, True], [False, False]]), ["<b>", "&"])
    page = picture._repr_html_()
    assert (
        'role="img"' in page and 'aria-label="What you return, 2 by 2. Wrong: row &lt;b&gt;' in page
    )
    assert page.count("3px solid #D55E00") == 1 and "<b>" not in page.replace("&lt;b&gt;", "")
    assert repr(picture).splitlines()[2].split() == ["<b>", "T", ".*"]


def test_large_or_flat_results_have_no_picture():
    assert report.examine("9.5", lambda x: (x[1:], x[:-1])).picture() is None


def test_check_shows_html_in_a_notebook_and_ipython_stays_optional(small_course, tmp_path):
    """In a process of its own: a kernel that records what is displayed, then no IPython at all."""
    (tmp_path / "c.json").write_text(json.dumps(small_course), "utf-8")
    code = f"""
        import json, sys
        from course_lib.checks import check, data
        chapter = json.load(open({str(tmp_path / "c.json")!r}))
        data.chapter = lambda n: chapter if n == 9 else {{"exercises": {{}}, "questions": {{}}}}
        import numpy as np
        assert "IPython" not in sys.modules or sys.modules["IPython"].get_ipython() is None
        check("9.1", lambda n: np.ones((n, n), bool))
        print("==")
        import IPython.display
        class Shell: kernel = True
        IPython.get_ipython = lambda: Shell()
        IPython.display.display = lambda shown: print("HTML", shown._repr_html_()[:6])
        check("9.1", lambda n: np.ones((n, n), bool))
    """
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    ).stdout
    plain, notebook = out.split("==")
    assert "What you return (n = 5); * = wrong:" in plain and "HTML" not in plain
    assert notebook.endswith("HTML <table\n") and "What you return" not in notebook


# --- scripts -------------------------------------------------------------------------------------


def test_arguments_are_copies_and_results_are_copied():
    array = np.zeros(3)
    array.setflags(write=False)
    kept = []

    def answer(x, y, dtype, named=None):
        kept.append(x)
        x[0] = 1
        assert isinstance(y[0], torch.Tensor) and dtype is torch.float16 and named == (1, "a")
        return x

    case = Case([
        Call([array, [Tensor(array)], DType("torch", "float16")], {"named": (1, "a")}),
        Call([array, [Tensor(array)], DType("torch", "float16")], {"named": (1, "a")}),
    ])  # fmt: skip
    outcome = run_script(answer, case)
    assert outcome.problem is None and array[0] == 0
    assert outcome.changed == ("argument 0 of call 0", "argument 0 of call 1")
    kept[0][1] = 5
    assert outcome.values[0].tolist() == [1, 0, 0]


def test_nan_in_an_argument_is_not_a_change():
    case = Case([Call([np.array([np.nan]), float("nan"), {"a": [np.inf]}])])
    assert run_script(lambda *a: 0, case).changed == ()


def test_served_functions_are_counted_and_speak_the_callers_library(monkeypatch):
    monkeypatch.setitem(REGISTER, "double", lambda by: lambda x: np.asarray(x) * by)
    case = Case([Call([Callback("double", {"by": 2}), Tensor(np.ones(2))])])

    def answer(f, x):
        assert isinstance(f(x), torch.Tensor) and isinstance(f(x.numpy()), np.ndarray)
        return f([1, 2])

    outcome = run_script(answer, case)
    assert outcome.values[0].tolist() == [2, 4]
    assert [len(record) for record in outcome.callbacks["double"]] == [1, 1, 1]
    asked = []
    run_script(answer, case, make_callback=lambda what: asked.append(what) or REGISTER["double"](2))
    assert asked == [Callback("double", {"by": 2})], "another process may serve it"


def test_caught_exceptions_are_values_and_the_script_goes_on():
    class Own(ValueError):
        pass

    def answer(n):
        if n < 0:
            raise Own("no")
        return n

    outcome = run_script(answer, Case([Call([-1], catch=True), Call([3], catch=True)]))
    assert outcome.values == (("raised", "ValueError"), 3) and outcome.problem is None
    outcome = run_script(not_implemented, Case([Call([1], catch=True)]))
    assert outcome.problem.kind == "not done"


@pytest.mark.parametrize(
    "answer",
    [
        lambda x: np.zeros((len(x), len(x)), np.float32).sum(),
        lambda x: float(torch.zeros(len(x), len(x)).sum()),
        lambda x: len([0.5 + i for i in range(300_000)]),
    ],
    ids=["numpy", "torch", "python"],
)
def test_a_memory_limit_sees_numpy_torch_and_python(answer):
    case = Case([Call([Drawn(0, (1000,))])], memory_mb=3)
    outcome = run_script(answer, case)
    assert outcome.problem.kind == "memory" and outcome.peak_bytes > 3e6
    assert run_script(lambda x: x * 2, case).problem is None


def test_what_a_saved_object_keeps_counts_to_the_end():
    class Hoard:
        def __init__(self):
            self.all = []

        def add(self, x):
            self.all.append(x.copy())

    add = Call([Drawn(1, (100_000,), "float64")], method="add", save="_")
    case = Case([Call(save="object"), *[add] * 4], memory_mb=2.5)
    assert run_script(Hoard, case).problem.kind == "memory"
    assert run_script(Hoard, Case(case.calls[:4], memory_mb=2.5)).problem is None


def test_only_plain_values_pass():
    assert to_plain(torch.Size([2, 3])) == (2, 3) and to_plain(range(2)) == (0, 1)
    assert to_plain(torch.ones(1, dtype=torch.bfloat16)).dtype == np.float32
    assert to_plain({1: torch.ones(1, requires_grad=True)})["1"].tolist() == [1.0]
    for odd in (object(), lambda: 0, {1}, 1j, np.array([None]), iter([]), b"bytes"):
        with pytest.raises(NotPlainError):
            to_plain(odd)


# --- the data files ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        True, None, 3, -0.5, float("inf"), "text", (1, (2.5,)), [1, [2]], {"a": np.arange(3)},
        np.float32(0.1), np.array([[1.5, np.nan, -np.inf]]), np.zeros((0, 3), bool),
        Case([Call([Tensor(np.ones(2)), DType("numpy", "float16")], {"n": 1}, save="a"),
              Call(method="m", on="a", catch=True, overwrite_args=True),
              Call([Drawn(1, (2, 3)), Callback("k", {"p": 1})])], "a note", 2.0, 5.0),
    ],
    ids=repr,
)  # fmt: skip
def test_scripts_and_values_survive_json(value):
    again = decode(json.loads(json.dumps(encode(value))))
    assert repr(again) == repr(value)


def test_large_outputs_are_kept_as_a_sample():
    array = np.arange(LARGE * 2.0)
    outcome = encode_outcome(Outcome((array,)))
    kept = decode(json.loads(json.dumps(outcome))).values[0]
    assert isinstance(kept, ArraySample) and kept.shape == array.shape and kept.entries.size < 300


def test_a_digest_accepts_rounding_and_rejects_the_next_digit_but_one():
    rng = np.random.default_rng(0)
    for x in rng.uniform(-2, 2, size=40):
        record = digest.make([float(x)], "salt", 3)
        for near in (x, round(x, 4), round(x, 3), x + 2e-4, x - 2e-4):
            assert digest.mismatches([near], record, "salt") == []
        assert digest.mismatches([x + 2.5e-3], record, "salt") == ["the value"]
    assert digest.mismatches([1.0], digest.make([1.0], "salt", 3), "pepper") == ["the value"]


def test_a_digest_names_the_part_that_is_wrong():
    table = np.arange(12.0).reshape(2, 2, 3)
    other = table.copy()
    other[1, 0, 2] = 0
    record = digest.make(table, "s", 3)
    assert digest.mismatches(other, record, "s") == ["row 0 of table 1"]
    shapes = {"q": (2, 3), "k": (2, 4)}
    record = digest.make(shapes, "s", 3)
    assert digest.mismatches({"q": [2, 3], "k": torch.Size([2, 5])}, record, "s") == ["entry 'k'"]
    assert digest.mismatches({"q": (2, 3)}, record, "s") == ["shape"]


def test_a_property_may_name_the_mistake(capsys, small_course, monkeypatch):
    def trailing(case, outcome):
        return properties.Mistake("no mask", "Five equal numbers.")

    monkeypatch.setattr(properties, "trailing", trailing, raising=False)
    small_course["exercises"]["9.2"]["claims"][0]["compare"] = "property:trailing"
    text = said(capsys, "9.2", [0.1] * 5)
    assert "Five equal numbers." in text and "This looks like: no mask." in text


# --- stubs ---------------------------------------------------------------------------------------


def test_a_stub_stands_where_the_solution_stood():
    head, rest = "class A:\n    def f(self):\n", "\n\n    x = 3"
    code = f"{head}        ### BEGIN SOLUTION\n        return 1\n        ### END SOLUTION{rest}"
    want = f'{head}        raise NotImplementedError("9.1: your code here"){rest}'
    assert stub(code, "9.1", "A") == want
    value = "### BEGIN SOLUTION\nROW = [1]\n### END SOLUTION"
    assert stub(value, "9.2", "ROW") == "ROW = None  # 9.2: your answer here"
    for bad in ("x = 1", "### BEGIN SOLUTION\nx = 1", "### END SOLUTION"):
        with pytest.raises(ValueError, match=r"exercise 9\.1: expected solutions between"):
            stub(bad, "9.1", "x")


def test_a_report_can_be_made_of_outcomes_from_elsewhere():
    cases = report.visible_cases("9.1")
    assert [len(claim) for claim in cases] == [1, 1]
    outcomes = [[run_script(upper, case) for case in claim] for claim in cases]
    found = report.report_on("9.1", outcomes)
    assert (found.state, found.diagnosis) == ("failed", "polarity inverted")
    assert report.report_on("9.1", outcomes[:1]).lines[1].finding.text == "not tried"


def test_emphasis_of_a_page_is_plain_text_in_a_terminal(capsys, small_course):
    mistake = small_course["exercises"]["9.1"]["mistakes"][0]
    mistake["says"] = "It says what is *blocked*, *not at all* what is: 2 * n * n stays."
    assert "what is blocked, not at all what is: 2 * n * n stays." in said(capsys, "9.1", upper)
