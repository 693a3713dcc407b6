"""Explorers without a browser: their numbers, states, static views, colours and code style."""

import doctest
import importlib
import json
import re
import shutil
import subprocess
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell

from course_lib import explorers
from course_lib.attention import attention
from course_lib.codewalk import walk
from course_lib.example import TOKENS, K, Q, V
from course_lib.explorers import (
    CodeWalk,
    CompareExplorer,
    FlashExplorer,
    GenerationExplorer,
    MaskBuilder,
    MaskExplorer,
)
from course_lib.explorers.base import Explorer, chosen, labels, numbers
from course_lib.explorers.page import bundle, file_names, read
from course_lib.explorers.walk import names_read
from course_lib.masks import Mask, causal, sliding_window
from course_lib.trace import trace
from tests.helpers.paths import ROOT

STATIC = ROOT / "course_lib" / "explorers" / "static"
SCRIPTS = sorted(STATIC.glob("*.js"))
EXPLORERS = ("mask", "compare", "walk", "mask_builder", "flash", "generation")


def square(x):
    total = 0
    for entry in x:
        total = total + entry * entry
    if total > 100:
        total = 0
    return total


def make_mask():
    return MaskExplorer(TOKENS, Q, K, V, row="sat")


def make_compare():
    return CompareExplorer(TOKENS, Q, K, V, row="cat")


def make_walk():
    return CodeWalk(walk(square, np.array([1.0, 2.0])))


MAKERS = [make_mask, make_compare, make_walk, MaskBuilder, FlashExplorer, GenerationExplorer]


# --- JavaScript and CSS --------------------------------------------------------------------------


def test_the_javascript_passes_its_linter():
    linter = shutil.which("oxlint", path=str(Path(sys.executable).parent)) or shutil.which("oxlint")
    if linter is None:
        pytest.skip("needs oxlint (pip install -e '.[dev]')")
    result = subprocess.run(
        [linter, "--config", ".oxlintrc.json", "--deny-warnings", str(STATIC)],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout
    assert f"on {len(SCRIPTS)} files" in result.stdout, result.stdout


def test_nothing_is_fetched_from_anywhere():
    for file in STATIC.iterdir():
        text = file.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")  # only a name
        assert not re.search(r"https?:|@import|url\(|fetch\(|innerHTML", text), file.name


@pytest.mark.parametrize("name", EXPLORERS)
def test_an_explorer_is_one_script_without_imports_or_clashing_names(name):
    code, _ = bundle(name)
    assert not re.search(r"^(import|export)|/\*", code, re.MULTILINE)
    whole = "\n".join(read(f"{file}.js") for file in file_names(name))
    names = re.findall(r"^(?:export )?(?:function|const|let|class) (\w+)", whole, re.MULTILINE)
    assert len(names) == len(set(names)) and {"render", "upgrade", "el"} <= set(names)


def test_an_explorer_has_only_what_it_uses():
    (walk_code, walk_css), (mask_code, mask_css) = bundle("walk"), bundle("mask")
    assert "function grid(" in mask_code and ".cx-grid" in mask_css and ".cx-w20" in mask_css
    for unused in ("function grid(", "function tableOf("):
        assert unused not in walk_code
    for unused in (".cx-grid", ".cx-w20", ".cx-d20", ".cx-terms"):
        assert unused not in walk_css


def test_a_script_without_a_render_is_refused(monkeypatch):
    monkeypatch.setattr("course_lib.explorers.page.read", lambda name: "let x = 1;\n")
    with pytest.raises(ValueError, match=r"odd\.js: expected a function render\(model, host\)"):
        bundle("odd")


@pytest.mark.parametrize("name", EXPLORERS)
def test_every_variable_and_class_of_a_script_has_its_style(name):
    code, css = bundle(name)
    uses = set(re.findall(r"var\((--cx-[\w-]+)", css)) - {"--cx-fine"}
    assert uses <= set(re.findall(r"(--cx-[\w-]+):", css))
    for kind in ("visible", "blocked", "leak", "muted"):
        assert f".cx-{kind}{{" in css
    assert ("cx-d0{" in css) == ("differenceKind(" in code.replace("function differenceKind(", ""))


# --- what all explorers do -----------------------------------------------------------------------


@pytest.mark.parametrize("make", MAKERS)
def test_a_notebook_keeps_one_html_output_and_stable_text(make):
    e, again = make(), make()
    formatter = InteractiveShell.instance().display_formatter
    data, _ = formatter.format(e)
    other, _ = formatter.format(again)
    assert set(data) == {"text/plain", "text/html"}, "no widget, which a saved notebook would miss"
    assert data["text/plain"] == other["text/plain"] == repr(e)
    assert "0x" not in data["text/plain"] and "object at" not in data["text/plain"]
    assert data["text/html"].startswith(f'<div data-explorer="{e.key}"')
    assert e.picture() in data["text/html"] and "<script" not in e.picture()
    assert data["text/html"].replace(e.key, again.key) == other["text/html"], "nothing is random"
    assert e.key != again.key, "each has views of its own"
    assert formatter.format(e)[0] == data


@pytest.mark.parametrize("make", MAKERS)
def test_what_a_script_holds_cannot_end_it(make):
    script = make().live_html().partition("<script>")[2]
    assert script.count("<") == script.count("</script>") + len(re.findall(r"< |<=", script))


@pytest.mark.parametrize("make", MAKERS)
def test_what_is_shown_is_plain_json(make):
    e = make()
    assert json.loads(json.dumps(e.data, allow_nan=False)) == json.loads(json.dumps(e.data))


def test_state_is_heard_of_and_checked_by_name():
    e, heard = make_mask(), []
    e.observe(lambda change: heard.append((change.name, change.new)), ["row", "view"])
    e.row = "on"
    e.view = "weights"
    assert heard == [("row", 3), ("view", "weights")]
    for name, value, message in [
        ("row", "dog", r"row: expected a position .* one of the tokens The, cat, .*; got 'dog'"),
        ("row", 5, "row: expected .* from 0 to 4 .*; got 5"),
        ("row", True, "row: expected"),
        ("row", None, "row: expected"),
        ("view", "colours", "view: expected one of mask, raw, scaled, masked, weights"),
        ("step", 0, "step: expected a whole number from 1 to 5; got 0"),
        ("column", -1, "column: expected"),
    ]:
        with pytest.raises(ValueError, match=message):
            setattr(e, name, value)
    with pytest.raises(TypeError, match="step: expected a whole number; got float"):
        e.step = 2.0
    assert (e.row, e.view, e.step, e.column) == (3, "weights", 5, None)
    e.row = np.int64(1)
    assert type(e.row) is int, "what is sent must be JSON"


def test_python_and_the_views_follow_each_other_through_the_carrier():
    e = make_mask()
    assert not e._carrier, "what is not shown needs no connection"
    e._repr_mimebundle_()
    carrier = e._carrier
    assert (carrier.key, carrier.states) == (e.key, e.values())
    e.row = "on"
    assert carrier.states["row"] == 3
    carrier.set_state({"states": {**e.values(), "row": 4, "view": "raw"}})
    assert (e.row, e.view) == (4, "raw")
    e._repr_mimebundle_()
    assert e._carrier is carrier
    with pytest.raises(ValueError, match="row: expected"):
        carrier.set_state({"states": {**e.values(), "row": 99}})
    assert e.row == 4, "a view can set a state only to what it may be"


def test_on_colab_python_hears_of_clicks_by_a_call(monkeypatch):
    called = {}
    output = types.SimpleNamespace(register_callback=called.__setitem__)
    for name, module in (("google.colab", types.ModuleType("c")), ("google.colab.output", output)):
        monkeypatch.setitem(sys.modules, name, module)
    e = make_mask()
    e._repr_mimebundle_()
    called["course-explorer"](e.key, {**e.values(), "row": 4})
    assert e.row == 4 and e._carrier is None
    called["course-explorer"]("of-a-kernel-before", {"row": 1})


def test_states_that_are_set_together_are_kept_together_or_not_at_all():
    short, long = (walk(square, np.ones(n)) for n in (1, 4))
    e = CodeWalk(short, long)
    e.update(walk=1, step=9)
    assert (e.walk, e.step) == (1, 9)
    with pytest.raises(ValueError, match="step: expected a whole number from 0 to"):
        e.update(walk=0, step=9)
    assert (e.walk, e.step) == (1, 9)
    with pytest.raises(TypeError, match="colour: expected one of the states row, step, walk"):
        e.update(colour="red")


def test_a_wrong_first_state_makes_no_explorer():
    with pytest.raises(
        ValueError, match="row: expected a position from 0 to 4 or one of the tokens The"
    ):
        MaskExplorer(TOKENS, row="dog")
    with pytest.raises(TypeError, match="colour: expected one of the states column, row, step"):
        Explorer.__init__(make_mask(), {}, colour="red")


def test_words_of_long_lists_name_runs():
    names = [f"t{i}" for i in range(30)]
    assert chosen(names, [i < 3 for i in range(30)]) == "t0, t1 and t2"
    assert chosen(names, [i != 20 for i in range(30)]) == "t0 to t19 and t21 to t29"
    assert chosen(names, [i < 9 or i in (12, 20) for i in range(30)]) == "t0 to t8, t12 and t20"
    assert chosen(names, [False] * 30) == "nothing"


def test_numbers_that_json_does_not_have_become_texts():
    array = torch.tensor([[1.5, float("nan")], [float("inf"), -float("inf")]])
    assert numbers(array) == [[1.5, "NaN"], ["Infinity", "-Infinity"]]
    assert numbers(np.array([True, False])) == [1, 0]


@pytest.mark.parametrize("name", ["mask", "compare", "walk"])
def test_every_explorer_shows_an_example_that_runs(name):
    module = importlib.import_module(f"course_lib.explorers.{name}")
    outcome = doctest.testmod(module)
    assert outcome.attempted >= 3 and outcome.failed == 0


def test_every_explorer_has_an_example():
    for name in explorers.__all__:
        assert name == "Explorer" or ">>>" in getattr(explorers, name).__doc__, name


# --- one by one ----------------------------------------------------------------------------------


def random_arrays(n, d, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(n, d)) * 3 for _ in range(3)]


def test_the_mask_explorer_sends_the_numbers_of_course_lib():
    q, k, v = random_arrays(7, 5)
    rule = causal() & sliding_window(3)
    e = MaskExplorer(range(7), torch.tensor(q), torch.tensor(k), torch.tensor(v), rule)
    wanted = trace(q, k, v, rule)
    for name in ("q", "k", "mask", "raw", "scaled", "weights", "output"):
        np.testing.assert_array_equal(e.data[name], getattr(wanted, name))
    powers, sums = np.array(e.data["powers"]), np.array(e.data["sums"])
    np.testing.assert_allclose(powers / sums[:, None], wanted.weights, atol=1e-15)
    shown = np.exp(wanted.masked - np.array(e.data["shifts"])[:, None])
    np.testing.assert_allclose(powers, shown, rtol=1e-12)


def test_the_mask_explorer_lives_without_scores_and_with_empty_rows():
    e = MaskExplorer(["a", "b"], mask=np.array([[False, False], [True, True]]))
    assert e.words() == "a may attend to nothing; a and b are blocked."
    assert set(e.data) == {"tokens", "views", "mask", "words"}
    with pytest.raises(ValueError, match="view: expected one of mask; got 'weights'"):
        e.view = "weights"
    assert "Figure" not in e.picture() and "<img alt=" in e.picture()
    e = MaskExplorer(TOKENS, Q, K, mask=~causal(), view="weights", row="mat")
    assert e.words().endswith("Weights: none.")
    assert e.data["sums"][4] == 0


def test_the_mask_explorer_refuses_what_it_cannot_show():
    with pytest.raises(TypeError, match="tokens: expected a sequence of tokens; got one text"):
        MaskExplorer("The cat")
    with pytest.raises(ValueError, match="tokens: expected 1 to 64 of them; got 65"):
        MaskExplorer(range(65))
    with pytest.raises(TypeError, match="Q, K: expected both or neither"):
        MaskExplorer(TOKENS, Q)
    with pytest.raises(ValueError, match="tokens: expected 5 labels; got 2"):
        MaskExplorer(["a", "b"], Q, K)
    with pytest.raises(TypeError, match="mask: expected a boolean array"):
        MaskExplorer(TOKENS, Q, K, mask=np.ones((5, 5)))


def test_the_mask_explorer_says_what_the_issue_promises():
    e = make_mask()
    assert e.words() == "sat may attend to The, cat and sat; on and mat are blocked."
    e.row = "on"
    assert e.words() == "on may attend to The, cat, sat and on; mat is blocked."
    e.row = "mat"
    assert e.words() == "mat may attend to The, cat, sat, on and mat; nothing is blocked."


def test_the_compare_explorer_sends_both_and_the_difference():
    q, k, v = random_arrays(6, 3)
    e = CompareExplorer(range(6), q, k, v)
    for side, mask in (("standard", None), ("causal", causal())):
        output, weights = attention(q, k, v, mask)
        np.testing.assert_allclose(e.data[side]["weights"], weights, atol=1e-15)
        np.testing.assert_allclose(e.data[side]["outputs"], output, atol=1e-15)
    for view in ("weights", "outputs"):
        a, b = (np.array(e.data[side][view]) for side in ("standard", "causal"))
        np.testing.assert_array_equal(e.data["difference"][view], b - a)


def test_the_compare_explorer_says_what_is_lost():
    e = make_compare()
    lost = trace(Q, K, V).weights[1, 2:].sum()
    assert f"gives {lost:.2f} of its weight to sat, on and mat;" in e.words()
    e.row = "mat"
    assert e.words() == "mat: the mask blocks nothing in this row, so both are the same."


def test_a_column_is_forgotten_when_it_would_mean_something_else():
    e = make_compare()
    e.column = 4
    e.view = "outputs"
    assert e.column is None
    with pytest.raises(ValueError, match="column: expected a whole number from 0 to 3; got 4"):
        e.column = 4
    with pytest.raises(ValueError, match="column: expected a whole number from 0 to 3; got 4"):
        CompareExplorer(TOKENS, Q, K, V, view="outputs", column=4)
    assert CompareExplorer(TOKENS, Q, K, V, view="weights", column=4).column == 4


def test_the_code_walk_shows_each_run_of_a_line_with_what_it_read():
    recording = walk(square, np.array([1.0, 2.0]))
    steps = CodeWalk(recording).data["walks"][0]["steps"]
    assert [s["line"] for s in steps] == [1, *(s.line for s in recording.steps)]
    assert steps[0]["inputs"] and [x["name"] for x in steps[0]["made"]] == ["x"]
    adds = [s for s in steps if s["line"] == 4]
    assert [{x["name"] for x in s["read"]} for s in adds] == [{"total", "entry"}] * 2
    assert adds[0]["read"][0]["summary"] == "0" != adds[1]["read"][0]["summary"]
    assert [s["made"][0]["name"] for s in adds] == ["total", "total"]
    assert not any(s["line"] == 6 for s in steps), "a line that did not run"
    assert steps[-1]["words"].startswith("square, line 7: reads total and returns")


def test_reading_is_taken_from_the_syntax_tree():
    lines = ["def f(a, b):", "    a += b.c[b]", "    for i in range(a):", "        i = g(", "  i)"]
    code = "\n".join(lines)
    assert names_read(code) == {2: ["a", "b"], 3: ["range", "a"], 4: ["g", "i"]}


def test_tables_of_a_code_walk_carry_tokens_where_they_fit():
    def scores(q, k):
        return q @ k.T

    e = CodeWalk(walk(scores, torch.tensor(Q), torch.tensor(K)), tokens=TOKENS)
    call, returned = e.data["walks"][0]["steps"]
    assert call["made"][0]["rows"] == list(TOKENS) and call["made"][0]["columns"] == []
    assert returned["made"][0]["columns"] == list(TOKENS)
    np.testing.assert_array_equal(returned["made"][0]["table"], Q @ K.T)
    assert "float64 tensor [5, 5]" in e.picture()


def test_large_values_of_a_code_walk_show_a_corner_and_say_so():
    def keep(x):
        return x * 1

    e = CodeWalk(walk(keep, np.zeros((2, 3, 40, 40))))
    value = e.data["walks"][0]["steps"][0]["made"][0]
    assert np.shape(value["table"]) == (12, 12)
    assert "the first 12 rows and columns" in value["note"]


def test_the_code_walk_refuses_what_is_no_recording():
    with pytest.raises(ValueError, match="walks: expected at least one recording; got none"):
        CodeWalk()
    with pytest.raises(TypeError, match=r"walks: expected recordings made by .* got function"):
        CodeWalk(square)
    e = CodeWalk(walk(square, np.ones(2)), walk(square, np.ones(5)))
    e.walk, e.step = 1, 13
    e.walk = 0
    assert e.step == 0, "the other recording has no such step"
    with pytest.raises(ValueError, match="step: expected a whole number from 0 to"):
        e.step = 99
    assert CodeWalk(walk(square, np.ones(2)), tokens=["a"]).row is None


def test_labels_can_be_seen_and_told_apart():
    names = [
        "the",
        "",
        " ",
        "\n",
        "the",
        "x" * 99,
        "\u202eabc",
        "\U0001f469\u200d\U0001f467",
        "日本",
    ]
    assert labels(names) == (
        "the (0)", "''", "' '", r"'\n'", "the (4)", "x" * 31 + "…", r"'\u202eabc'", *names[7:],
    )  # fmt: skip
    e = MaskExplorer(["the", "cat", "the", "\n"], row="the (2)")
    assert e.words() == "the (2) may attend to the (0), cat and the (2); '\\n' is blocked."
    for value, place in (("the", 0), ("the (0)", 0), ("cat", 1), ("\n", 3), (2, 2)):
        e.row = value
        assert e.row == place


@pytest.mark.parametrize("make", [MaskExplorer, CompareExplorer, FlashExplorer])
def test_a_token_is_text_whatever_it_holds(make):
    hostile = ["$\\frac$", "<b>&amp;</b>", "$", "\U0001f469\u200d\U0001f467", "שלום"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shown = make(hostile, Q, K, V)._repr_mimebundle_()["text/html"].partition("<style>")[0]
    assert "<b>" not in shown and "<img alt=" in shown


def test_in_every_view_of_the_mask_explorer_words_hold_its_numbers():
    e = MaskExplorer(range(20), *random_arrays(20, 4), row=19)
    for view, kind in (
        ("raw", "Dot products"),
        ("masked", "Scaled scores"),
        ("weights", "Weights"),
    ):
        e.view = view
        numbers_said = e.words().partition(f" {kind}: ")[2]
        wanted = [f"{j} {x:.2f}" for j, x in enumerate(getattr(e.trace, view)[19][:8])]
        assert numbers_said == f"{', '.join(wanted)}, and 12 more."
    q, k, _ = random_arrays(3, 2)
    k[1] = np.nan
    e = MaskExplorer(list("abc"), q, k)
    assert all(np.isfinite(e.data["range"])), "the shades of the other cells stay"


def test_the_compare_explorer_shows_the_first_entries_of_long_values():
    q, k, _ = random_arrays(3, 2)
    v = np.random.default_rng(0).normal(size=(3, 200)) * 9
    e = CompareExplorer(list("abc"), q, k, v, view="outputs", column=63)
    assert len(e.data["entries"]) == 64 == len(e.data["causal"]["outputs"][0])
    assert e.data["signed"] and e.data["scale"] == np.abs(
        [e.causal.output[:, :64], e.standard.output[:, :64],
         (e.causal.output - e.standard.output)[:, :64]]
    ).max()  # fmt: skip
    assert make_compare().data["scale"] == 1 and not make_compare().data["signed"]
    with pytest.raises(ValueError, match="column: expected a whole number from 0 to 63; got 64"):
        e.column = 64


def test_first_states_are_checked_together():
    short, long = (walk(square, np.ones(n)) for n in (1, 4))
    assert CodeWalk(short, long, walk=1, step=9).step == 9
    with pytest.raises(ValueError, match="step: expected a whole number from 0 to"):
        CodeWalk(short, long, walk=0, step=9)


def test_a_rule_of_ones_own_is_welcome():
    rule = Mask(lambda q, k: (q - k) % 2 == 0, "every second position")
    e = MaskExplorer(TOKENS, Q, K, mask=rule, row="sat")
    assert e.words() == "sat may attend to The, sat and mat; cat and on are blocked."
