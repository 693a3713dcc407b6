"""Explorers as a reader meets them: clicks, keys, hover, state from Python, themes, narrow pages.

Each is shown in Chromium as a notebook saves it (`explorer_page`).
"""
# ruff: noqa: RUF001 (explorers write a true minus sign)

import numpy as np
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe

from course_lib.codewalk import walk
from course_lib.example import TOKENS, K, Q, V
from course_lib.explorers import CodeWalk, CompareExplorer, MaskExplorer
from course_lib.explorers.page import read
from course_lib.explorers.style import LEVELS
from course_lib.figures.palette import DARK, LIGHT
from course_lib.masks import causal
from tests.browser.explorer_page import assert_removed_views_stop_listening, open_explorer

pytestmark = pytest.mark.browser


def attention_in_lines(q, k, v):
    scores = q @ k.T / 2
    visible = torch.ones(scores.shape, dtype=torch.bool).tril()
    scores = scores.masked_fill(~visible, -torch.inf)
    if scores.shape[0] > 1000:
        scores = scores * 0
    weights = scores.softmax(dim=-1)
    return weights @ v


def random_arrays(n):
    rng = np.random.default_rng(n)
    return [rng.normal(size=(n, 4)) for _ in range(3)]


def make_mask(**state):
    return MaskExplorer(TOKENS, Q, K, V, **{"row": "sat", **state})


def make_compare(**state):
    return CompareExplorer(TOKENS, Q, K, V, **{"row": "cat", **state})


def make_walk(**state):
    q, k, v = (torch.tensor(x) for x in (Q, K, V))
    runs = walk(attention_in_lines, q, k, v), walk(attention_in_lines, q[:3], k[:3], v[:3])
    return CodeWalk(*runs, tokens=TOKENS, **state)


MODES = [
    *[(make_mask, {"view": v}) for v in ("mask", "raw", "scaled", "masked", "weights")],
    (make_compare, {"view": "weights"}),
    (make_compare, {"view": "outputs"}),
    (make_walk, {"step": 0}),
    (make_walk, {"step": 3, "row": "sat"}),
]
MODE_NAMES = [f"{make.__name__[5:]}-{'-'.join(map(str, s.values()))}" for make, s in MODES]


@pytest.fixture
def opened(chromium):
    """Open explorers; each is closed, and must not have complained, at the end."""
    pages = []

    def do(*explorers, **options):
        pages.append(open_explorer(chromium, *explorers, **options))
        return pages[-1]

    yield do
    for page in pages:
        page.close()


# --- numbers -------------------------------------------------------------------------------------


def test_javascript_writes_numbers_as_python_does(chromium):
    rng = np.random.default_rng(0)
    values = [*rng.normal(size=400), *rng.normal(size=200) * 1e4, *rng.normal(size=100) * 1e-4]
    values += [n / 8 for n in range(-41, 42)] + [n / 32 for n in range(-9, 10)]  # ties
    values += [0.285, 1.005, 8.345, 2.675, -0.0, -1e-9, 1e-300, 123456789.125]
    values = [float(x) for x in values]
    page = chromium.new_page()
    page.evaluate(
        """async (code) => {
             const url = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
             window.core = await import(url);
           }""",
        read("core.js"),
    )
    for digits in (1, 2, 4):
        ours = page.evaluate("([xs, d]) => xs.map((x) => core.fixed(x, d))", [values, digits])
        direct = [f"{x:.{digits}f}".replace("-", "−") for x in values]
        zero = f"{0:.{digits}f}"
        assert ours == [d.replace("−", "") if d == f"−{zero}" else d for d in direct]
    special = page.evaluate("['NaN', 'Infinity', '-Infinity'].map((x) => core.fixed(x))")
    assert special == ["NaN", "∞", "−∞"]
    assert page.evaluate("[0.5, -0.25, 2, 1234.5678, 1e-7].map(core.brief)") == [
        "0.5", "−0.25", "2", "1235", "1e−7",
    ]  # fmt: skip
    levels = page.evaluate("xs => xs.map(core.weightKind)", [x / 200 for x in range(-20, 240)])
    assert set(levels) == {f"cx-w{i}" for i in range(LEVELS)}
    levels = page.evaluate("xs => xs.map(core.differenceKind)", [x / 99 for x in range(-120, 120)])
    assert set(levels) == {f"cx-d{i}" for i in range(LEVELS)}
    page.close()


def test_the_numbers_behind_a_cell_are_those_of_course_lib(opened):
    rng = np.random.default_rng(1)
    q, k, v = (rng.normal(size=(6, 5)) * 4 for _ in range(3))  # scores far beyond 10
    e = MaskExplorer(list("abcdef"), q, k, v, view="weights")
    page = opened(e)
    t = e.trace
    for i, j in [(0, 0), (3, 1), (5, 5), (2, 4)]:
        page.cell(i, j).hover()
        note = page.note().replace("−", "-")
        products = [q[i, d] * k[j, d] for d in range(5)]
        raw = next(line for line in note.splitlines() if line.startswith("raw: "))
        left, right = raw.removeprefix("raw: ").split(" = ")
        written = sum(
            float(a.strip("()")) * float(b.strip("()"))
            for a, b in (term.split("·") for term in left.split(" + "))
        )
        assert abs(written - sum(products)) < 5e-3 * sum(map(abs, products))
        assert float(right) == float(f"{t.raw[i, j]:.4g}")
        assert f"/ √5 = {t.scaled[i, j]:.4f}" in note
        powers, _shift = t.powers(i)
        if j <= i:
            assert f"weight: {powers[j]:.4f} / {powers.sum():.4f} = {t.weights[i, j]:.4f}" in note
            terms = " + ".join(f"{p:.4f}" for p in powers[: i + 1])
            assert f"sum of the row: {terms} = {powers.sum():.4f}" in note
        else:
            assert "masked: -∞" in note and "weight: exp(-∞) = 0, so 0" in note


# --- the mask explorer ---------------------------------------------------------------------------


def test_clicking_a_token_lights_its_row_and_says_what_it_sees(opened):
    page = opened(make_mask())
    assert page.words() == "sat may attend to The, cat and sat; on and mat are blocked."
    page.page.get_by_role("radio", name="on", exact=True).click()
    assert page.sync().row == 3
    assert page.words() == page.explorer.words()
    assert page.page.locator("tr.cx-row th").inner_text() == "on"
    assert page.page.locator("tr[aria-selected=true]").count() == 1
    chips = page.page.locator(".cx-chip")
    assert [chips.nth(i).get_attribute("class").split()[1] for i in range(5)] == [
        *["cx-visible"] * 4, "cx-blocked",
    ]  # fmt: skip


def test_every_view_shows_the_table_of_the_trace(opened):
    page = opened(make_mask())
    t = page.explorer.trace
    for view, label in [("raw", "raw scores"), ("scaled", "scaled"), ("masked", "masked"),
                        ("weights", "weights"), ("mask", "mask")]:  # fmt: skip
        page.page.get_by_text(label, exact=True).first.click()
        assert page.sync().view == view
        for (i, j), x in np.ndenumerate(getattr(t, view)):
            shown = page.cell(i, j).inner_text()
            if view == "mask":
                assert shown == str(int(x))
            elif t.mask[i, j] or view in ("raw", "scaled"):
                assert shown == f"{x:.2f}"
            else:
                assert shown == {"masked": "−∞", "weights": "0"}[view]


def test_the_slider_builds_the_mask_row_by_row(opened):
    page = opened(make_mask(step=1))
    assert page.cell(0, 0).inner_text() == "1" and page.cell(1, 0).inner_text() == ""
    slider = page.page.get_by_role("slider")
    slider.focus()
    for step in (2, 3):
        page.page.keyboard.press("ArrowRight")
        assert (page.sync().step, page.explorer.row) == (step, step - 1)
    assert page.words().startswith("sat may attend")
    assert slider.get_attribute("aria-valuetext") == "3 of 5"
    assert "not built yet" in page.cell(3, 0).get_attribute("aria-label")
    page.page.get_by_role("radio", name="mat", exact=True).click()
    assert page.sync().step == 5, "choosing a row builds it"


def test_a_cell_that_is_only_pointed_at_stays_in_the_page(opened):
    page = opened(make_mask())
    page.cell(2, 1).hover()
    assert page.note().startswith("sat → cat: may attend")
    assert page.page.evaluate("told.length") == 0
    page.cell(2, 3).click()
    assert (page.sync().row, page.explorer.column) == (2, 3)
    page.page.mouse.move(880, 5)
    page.page.evaluate("active().blur()")
    assert page.note().startswith("sat → on: blocked"), "what was chosen stays"


def test_python_moves_the_picture(opened):
    page = opened(make_mask())
    page.explorer.row = "mat"
    page.explorer.view = "weights"
    page.explorer.column = "cat"
    assert page.words() == page.explorer.words()
    assert page.words().endswith("nothing is blocked. Weights: The 0.19, cat 0.19, sat 0.19, "
                                 "on 0.19, mat 0.24.")  # fmt: skip
    assert page.cell(4, 4).inner_text() == "0.24"
    assert page.note().startswith("mat → cat: may attend")
    assert page.page.get_by_role("radio", name="weights").is_checked()
    with pytest.raises(ValueError, match="row: expected"):
        page.explorer.row = 7
    assert page.words().startswith("mat")


def test_everything_can_be_done_with_the_keyboard_alone(opened):
    page = opened(make_mask())
    press = page.page.keyboard.press
    press("Tab")  # the sentence, at the chosen token
    press("ArrowRight")
    assert page.sync().row == 3
    press("Home")
    assert page.sync().row == 0
    press("Tab")  # the views, at the chosen one
    for _ in range(4):
        press("ArrowRight")
    assert page.sync().view == "weights"
    press("Tab")  # the slider
    press("Home")
    assert page.sync().step == 1
    press("End")
    press("Tab")  # the grid
    for key in ("ArrowDown", "ArrowDown", "ArrowRight"):
        press(key)
    assert page.note().startswith("sat → cat")
    press("Control+End")
    assert page.note().startswith("mat → mat")
    press("PageUp")
    press("End")
    assert page.note().startswith("The → mat")
    press("ArrowUp")  # the border holds
    press("Enter")
    assert (page.sync().row, page.explorer.column) == (0, 4)
    press("ArrowDown")
    press("Space")
    assert (page.sync().row, page.explorer.column) == (1, 4)
    focused = "getComputedStyle(active()).outlineStyle"
    assert page.page.evaluate(focused) == "solid", "the focus can be seen"
    press("Tab")
    assert page.page.evaluate("!document.activeElement.shadowRoot"), "and one can leave"


# --- the compare explorer ------------------------------------------------------------------------


def test_both_weights_and_their_difference_appear_for_a_cell_of_any_grid(opened):
    page = opened(make_compare(), width=1000)
    e = page.explorer
    for number in range(3):
        page.cell(2, 1, grid=number).hover()
        note = page.note().replace("−", "-")
        a, b = e.standard.weights[2, 1], e.causal.weights[2, 1]
        assert f"= {a:.4f}" in note and f"= {b:.4f}" in note
        assert f"difference: {b - a:.4f}" in note
        assert page.page.locator(".cx-cell").count() == 3, "all three grids show the place"
    page.cell(2, 4, grid=0).click()
    assert (page.sync().row, page.explorer.column) == (2, 4)
    assert "causal: exp(−∞) = 0, so 0" in page.note()
    tops = page.page.locator(".cx-grid").evaluate_all("gs => gs.map((g) => g.offsetTop)")
    assert len(set(tops)) == 1, "side by side"


def test_output_vectors_are_written_out_as_sums(opened):
    page = opened(make_compare())
    page.page.get_by_text("output vectors").click()
    e = page.sync()
    assert e.view == "outputs" and page.words() == e.words()
    for (i, d), x in np.ndenumerate(e.causal.output):
        assert page.cell(i, d, grid=1).inner_text().replace("−", "-") == f"{x + 0.0:.2f}"
    page.cell(1, 2).hover()  # the output of cat, entry d2
    note = page.note()
    assert f"= {e.standard.output[1, 2]:.4f}" in note
    lost = page.page.locator(".cx-lost").all_inner_texts()
    weights = e.standard.weights[1]
    assert lost == [f"{weights[2]:.4f}·1 (sat)", f"{weights[4]:.4f}·0.5 (mat)"]
    page.explorer.view = "weights"
    assert page.cell(0, 0).inner_text() == "0.11"


# --- the code walk -------------------------------------------------------------------------------


def test_clicking_a_line_shows_what_it_read_and_made(opened):
    page = opened(make_walk())
    assert "is called with" in page.note()
    page.page.locator(".cx").get_by_text("masked_fill").click()
    assert page.sync().step == 3
    assert page.words() == f"Step 3 of 6. {page.explorer.words()}"
    tables = page.page.locator(".cx-value")
    assert tables.count() == 3  # reads scores and visible, makes scores
    made = tables.nth(2).locator("tr").nth(3).locator("td").all_inner_texts()
    assert made == ["0.5000", "1.0000", "1.0000", "−∞", "−∞"]
    skipped = page.page.get_by_role("radio", name="scores = scores * 0")
    assert skipped.is_disabled(), "a line that did not run"


def test_the_code_walk_steps_and_switches_by_button_and_key(opened):
    page = opened(make_walk())
    forth = page.page.get_by_role("button", name="Next")
    for step in range(1, 7):
        forth.click()
        assert page.sync().step == step
    assert forth.is_disabled() and "returns float64 tensor [5, 4]" in page.words()
    page.page.get_by_role("radio", name="attention_in_lines").nth(1).check(force=True)
    assert (page.sync().walk, page.explorer.step) == (1, 0)
    page.page.get_by_role("radio", name="def attention_in_lines").focus()
    for _ in range(4):
        page.page.keyboard.press("ArrowDown")
    assert page.sync().step == 4
    page.page.get_by_role("radio", name="The", exact=True).click()
    assert page.sync().row == 0
    page.page.get_by_role("radio", name="The", exact=True).click()
    assert page.sync().row is None
    page.explorer.walk, page.explorer.step = 0, 3
    assert page.words().startswith("Step 3 of 6.")


# --- all of them ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "state"), MODES, ids=MODE_NAMES)
def test_axe_finds_no_fault_and_a_narrow_page_does_not_scroll_sideways(opened, make, state):
    for options in ({"width": 900}, {"width": 345, "dark": True}):
        page = opened(make(**state), **options)
        grid = page.page.locator(".cx-grid tbody td")
        if grid.count():
            grid.nth(7).hover()
        faults = Axe().run(page.page).response["violations"]
        assert [(f["id"], f["impact"], f["nodes"][0]["html"]) for f in faults] == []
        assert page.page.evaluate("document.documentElement.scrollWidth") <= options["width"]


def test_a_large_grid_fits_a_narrow_page_too(opened):
    rng = np.random.default_rng(0)
    q, k = (rng.normal(size=(64, 4)) for _ in range(2))
    page = opened(MaskExplorer(range(64), q, k, row=40, view="masked"), width=400)
    assert page.page.evaluate("document.documentElement.scrollWidth") <= 400
    page.cell(40, 63).click()
    assert page.sync().column == 63
    assert page.words() == page.explorer.words()
    assert page.words().startswith("40 may attend to 0 to 40; 41 to 63 are blocked.")


def test_the_note_moves_below_when_the_page_becomes_narrow(opened):
    page = opened(make_mask())

    def below():
        boxes = [page.page.locator(s).bounding_box() for s in (".cx-body", ".cx-note")]
        return boxes[1]["y"] >= boxes[0]["y"] + boxes[0]["height"]

    assert not below()
    page.page.set_viewport_size({"width": 400, "height": 800})
    assert below()


@pytest.mark.parametrize(
    ("options", "host", "theme"),
    [
        ({}, "", LIGHT),
        ({"system_dark": True}, "", DARK),
        ({"dark": True}, "", DARK),
        ({"system_dark": True}, "data-jp-theme-light=true", LIGHT),
        ({"system_dark": True}, "class=notebook_app", LIGHT),
        ({}, "class=vscode-dark", DARK),
    ],
)
def test_the_theme_is_that_of_the_page(opened, options, host, theme):
    page = opened(make_mask(view="weights"), **options)
    if host:
        name, value = host.split("=")
        page.page.evaluate("([n, v]) => document.body.setAttribute(n, v)", [name, value])
    paper = page.page.eval_on_selector(".cx", "e => getComputedStyle(e).backgroundColor")
    assert paper == "rgb({}, {}, {})".format(*bytes.fromhex(theme.paper[1:]))
    chosen = page.page.eval_on_selector(".cx-w20", "e => getComputedStyle(e).backgroundColor")
    assert chosen == "rgb({}, {}, {})".format(*bytes.fromhex(theme.weights[-1][1:]))


@pytest.mark.parametrize("make", [make_mask, make_compare, make_walk])
def test_a_view_that_is_removed_stops_listening(opened, make):
    assert_removed_views_stop_listening(opened(make()))


def test_two_views_of_one_explorer_move_together(opened):
    e = make_mask()
    page = opened(e, e)
    page.page.get_by_role("radio", name="on", exact=True).first.click()
    page.page.get_by_text("weights", exact=True).nth(1).click()
    words = page.page.locator(".cx-words").all_inner_texts()
    assert words == [words[0]] * 2 and words[0].startswith("on may attend")
    checked = page.page.get_by_role("radio", name="weights").evaluate_all(
        "inputs => inputs.map((input) => input.checked)"
    )
    assert checked == [True, True]


def test_of_many_tokens_the_chosen_one_is_in_sight(opened):
    page = opened(MaskExplorer([f"t{i}" for i in range(64)], row=40), width=400)

    def in_sight(name):
        box, chip = (
            page.page.locator(s).bounding_box() for s in (".cx-tokens", f".cx-chip[title={name}]")
        )
        return box["y"] <= chip["y"] and chip["y"] + chip["height"] <= box["y"] + box["height"]

    assert in_sight("t40") and not in_sight("t0")
    for row in (0, 63, 20):
        page.explorer.row = row
        assert in_sight(f"t{row}")


def test_the_tokens_to_follow_can_be_reached_before_one_is_chosen(opened):
    page = opened(make_walk())
    page.page.get_by_role("button", name="Next").focus()
    page.page.keyboard.press("Tab")
    page.page.keyboard.press(" ")
    assert page.sync().row == 0
    page.page.keyboard.press("ArrowRight")
    assert page.sync().row == 1


def test_rapid_clicks_end_where_the_last_one_was(opened):
    e = MaskExplorer([f"t{i}" for i in range(64)], *random_arrays(64))
    page = opened(e)
    page.page.evaluate(
        """() => {
             const all = (selector) => inside().querySelectorAll(selector);
             const [chips, views] = [all(".cx-chip"), all(".cx-choice input")];
             for (let i = 0; i < 200; i++) { chips[(7 * i) % 64].click(); views[i % 5].click(); }
           }"""
    )
    assert (page.sync().row, e.view) == (7 * 199 % 64, e.views[199 % 5])
    assert page.words() == e.words()


def test_two_explorers_in_one_page_do_not_touch_each_other(opened):
    page = opened(make_mask(), make_mask(row="The"))  # of the same data, but not the same
    page.page.get_by_text("weights", exact=True).nth(1).click()
    page.page.get_by_role("radio", name="on", exact=True).nth(1).click()
    words = page.page.locator(".cx-words").all_inner_texts()
    assert words[0] == page.explorer.words() and words[1].startswith("on may attend")
    assert page.page.get_by_role("radio", name="mask", exact=True).first.is_checked()


def test_outputs_beyond_one_and_below_zero_keep_their_colours(opened):
    e = CompareExplorer(TOKENS, Q, K, 20 * V - 10, view="outputs")
    page = opened(e)
    for (i, j), x in np.ndenumerate(e.causal.output):
        kind = 10 + round(10 * x / e.data["scale"])
        assert f"cx-d{kind}" in page.cell(i, j, grid=1).get_attribute("class")


def test_hostile_tokens_stay_text(opened):
    names = ["<img src=x onerror=alert(1)>", "</script>", "a & b", "“quoted”", "日本"]
    page = opened(MaskExplorer(names, Q, K, V, mask=causal()))
    assert page.page.locator(".cx img").count() == 0
    assert page.words().startswith("<img src=x onerror=alert(1)> may attend to <img")
    page.explorer.row = 4
    assert page.words().endswith("nothing is blocked.")
