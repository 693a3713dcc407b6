"""The flash, mask builder and generation explorers as a reader meets them, in Chromium.

The mask builder computes its picture in JavaScript, so here it is compared with `Mask` on random
rules; the other two only look up what Python sent, which is compared cell by cell.
"""
# ruff: noqa: RUF001 (explorers write a true minus sign)

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe

from course_lib.explorers import FlashExplorer, GenerationExplorer, MaskBuilder
from course_lib.explorers.mask_builder import EXAMPLES, JOINS, RULES
from course_lib.gpt import GPT, GPTConfig
from course_lib.masks import causal, not_padding, sinks, sliding_window
from tests.browser.explorer_page import assert_removed_views_stop_listening, open_explorer

pytestmark = pytest.mark.browser

MODES = {
    "flash-begin": lambda: FlashExplorer(),
    "flash-end": lambda: FlashExplorer(row="on", step=6),
    "builder": lambda: MaskBuilder(EXAMPLES["window and sinks"]),
    "builder-padding": lambda: MaskBuilder(EXAMPLES["left padding"], n=9, block=2),
    "writes": lambda: GenerationExplorer(step=6),
    "writes-cheat": lambda: GenerationExplorer(step=6, cheat=True),
    "reads": lambda: GenerationExplorer(step=3, task="reads"),
    "reads-cheat": lambda: GenerationExplorer(step=3, task="reads", cheat=True),
}


@pytest.fixture
def opened(chromium):
    """Open explorers; each is closed, and must not have complained, at the end."""
    pages = []

    def do(explorer, **options):
        pages.append(open_explorer(chromium, explorer, **options))
        return pages[-1]

    yield do
    for page in pages:
        page.close()


def table_text(page, at=0):
    """The cells of the `at`-th small table, without its heads."""
    return page.page.locator(".cx-sums table").nth(at).locator("tbody tr").evaluate_all(
        "lines => lines.map(line => [...line.cells].map(cell => cell.innerText))"
    )  # fmt: skip


def classes(page, grid=0):
    """Class of every cell of a grid, by row."""
    return page.page.locator(".cx-grid").nth(grid).locator("tbody tr").evaluate_all(
        "lines => lines.map(line => [...line.querySelectorAll('td')].map(cell => cell.className))"
    )  # fmt: skip


# --- all three -----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", MODES.values(), ids=MODES.keys())
def test_axe_finds_no_fault_and_a_narrow_page_does_not_scroll_sideways(opened, make):
    for options in ({"width": 900}, {"width": 345, "dark": True}):
        page = opened(make(), **options)
        page.cell(1, 1).hover()
        faults = Axe().run(page.page).response["violations"]
        assert [(f["id"], f["impact"], f["nodes"][0]["html"]) for f in faults] == []
        assert page.page.evaluate("document.documentElement.scrollWidth") <= options["width"]
        body = ".cx-body"
        inner, outer = (
            page.page.eval_on_selector(body, f"e => e.{w}") for w in ("scrollWidth", "clientWidth")
        )
        assert inner <= outer, "the picture itself fits"


@pytest.mark.parametrize("make", MODES.values(), ids=MODES.keys())
def test_a_view_that_is_removed_stops_listening(opened, make):
    assert_removed_views_stop_listening(opened(make()))


@pytest.mark.parametrize("make", MODES.values(), ids=MODES.keys())
def test_the_page_follows_its_width(opened, make):
    page = opened(make(), width=900)
    wide = page.page.eval_on_selector(".cx", "e => e.offsetWidth")
    page.page.set_viewport_size({"width": 400, "height": 900})
    assert page.page.eval_on_selector(".cx", "e => e.offsetWidth") <= 400 < wide
    assert page.page.evaluate("document.documentElement.scrollWidth") <= 400


# --- flash ---------------------------------------------------------------------------------------


def test_the_flash_page_shows_every_step_of_a_row_as_recorded(opened):
    rng = np.random.default_rng(0)
    mask = causal() & (sliding_window(3) | sinks(1)) & not_padding(np.arange(7) != 1)
    arrays = rng.normal(size=(3, 7, 3))
    e = FlashExplorer(None, *arrays, mask, block_q=2, block_k=3, row=6)
    page = opened(e)
    assert page.words() == e.words()
    for step in range(1, len(e.trace.order) + 1):
        page.page.get_by_role("button", name="Next tile").click()
        assert page.sync().step == step
        assert page.words() == e.words()
        met = [card for card in e.data["rows"][6] if card["visit"] <= step]
        if met:
            after = [line[-1] for line in table_text(page)]
            wanted = [f"{x + 0.0:.4f}".replace("-", "−") for x in met[-1]["after"]]
            assert after == wanted
    assert page.page.get_by_role("button", name="Next tile").is_disabled()
    kinds = np.array(classes(page))
    for (i, j), kind in np.ndenumerate(kinds):
        tile = e.trace.tiles[i // 2, j // 3]
        assert ("cx-skip" in kind) == (tile == 0), "skipped tiles stay dark"
        assert ("cx-blocked" in kind) == (tile != 0 and np.isinf(e.trace.scores[i, j]))
        if tile and np.isfinite(e.trace.scores[i, j]):
            text = page.cell(i, j).inner_text()
            assert text == f"{e.trace.scores[i, j] + 0.0:.2f}".replace("-", "−")


def test_tiles_light_up_one_after_another(opened):
    e = FlashExplorer(row="on", step=2)
    page = opened(e)
    lit = np.array([["cx-visible" in kind for kind in line] for line in classes(page)])
    right = np.zeros((5, 5), bool)
    right[2:4, 0:2] = True
    np.testing.assert_array_equal(lit, right)
    assert "cx-plain" in page.cell(3, 2).get_attribute("class"), "not yet"
    e.step = 3
    assert "cx-visible" in page.cell(3, 2).get_attribute("class")
    assert page.words() == e.words()


def test_picking_a_row_follows_it_from_its_first_tile(opened):
    e = FlashExplorer(row="cat", step=1)
    page = opened(e)
    page.cell(4, 2).click()
    assert (page.sync().row, e.step) == (4, 4)
    page.page.keyboard.press("ArrowUp")
    page.page.keyboard.press("Enter")
    assert (page.sync().row, e.step) == (3, 2)
    page.page.keyboard.press("ArrowUp")
    page.page.keyboard.press(" ")
    assert (page.sync().row, e.step) == (2, 2), "the same tile serves both rows"
    assert page.words() == e.words()
    page.page.get_by_label("tiles visited").focus()
    page.page.keyboard.press("End")
    assert page.sync().step == 6
    page.cell(1, 3).hover()
    assert "cat, on: skipped tile" in page.page.inner_text(".cx-body")
    page.cell(1, 0).hover()
    assert "cat, The: score 1.50, tile 1" in page.page.inner_text(".cx-body")


# --- mask builder --------------------------------------------------------------------------------

READ = """
() => {
  const kinds = [...inside().querySelectorAll(".cx-grid")].map((grid) =>
    [...grid.querySelectorAll("tbody tr")].map((line) =>
      [...line.querySelectorAll("td")].map((cell) => cell.className.split(" ")[0])));
  return {
    matrix: kinds[0].map((line) => line.map((kind) => kind === "cx-visible")),
    tiles: kinds[1].map((line) => line.map((k) => ["cx-skip", "cx-part", "cx-visible"].indexOf(k))),
    code: inside().querySelector(".cx-expression code").textContent,
    words: inside().querySelector(".cx-words").textContent,
  };
}
"""


def random_terms(rng):
    terms = []
    for _ in range(rng.integers(1, 6)):
        rule = rng.choice(list(RULES))
        meaning, least, _ = RULES[rule]
        number = "" if meaning is None else int(rng.integers(least, 14))
        terms.append(f"{rng.choice(JOINS) + ' ' if terms else ''}{rule}({number})")
    return terms


def assert_page_is_python(page, e):
    shown = page.page.evaluate(READ)
    matrix, tiles = e.mask.matrix(e.n), e.mask.tiles(e.n, block_q=e.block, block_k=e.block)
    np.testing.assert_array_equal(shown["matrix"], matrix)
    np.testing.assert_array_equal(shown["tiles"], tiles)
    assert shown["code"] == e.expression
    assert f"{shown['code']}: {shown['words']}" == e.words()


def test_javascript_builds_the_mask_that_python_builds(opened):
    rng = np.random.default_rng(0)
    ids, valid = rng.integers(0, 3, size=24), rng.random(24) < 0.7
    for own, cases in (({}, 60), ({"ids": ids, "valid": valid}, 30)):
        e = MaskBuilder(n=5, block=2, **own)
        page = opened(e)
        for _ in range(cases):
            e.terms = random_terms(rng)
            e.n, e.block = int(rng.integers(1, 25)), int(rng.integers(1, 9))
            assert_page_is_python(page, e)


def test_rules_are_added_joined_moved_numbered_and_removed_in_the_page(opened):
    e = MaskBuilder(n=12)
    page = opened(e)
    page.page.get_by_label("Add a rule").select_option("sinks")
    page.page.get_by_label("How sinks is joined").select_option("or")
    assert page.sync().terms == ["causal()", "or sinks(3)"]
    page.page.get_by_label("Add a rule").select_option("sliding_window")
    page.page.get_by_label("sliding_window: width").focus()
    for _ in range(3):
        page.page.keyboard.press("ArrowRight")
    assert page.sync().terms == ["causal()", "or sinks(3)", "and sliding_window(6)"]
    page.page.get_by_label("Move sliding_window up").click()
    assert page.sync().terms == ["causal()", "and sliding_window(6)", "or sinks(3)"]
    assert_page_is_python(page, e)
    page.page.get_by_label("Move sliding_window up").click()
    assert page.sync().terms == ["sliding_window(6)", "and causal()", "or sinks(3)"]
    page.page.get_by_label("How sinks is joined").select_option("and not")
    page.page.get_by_label("Remove sliding_window").click()
    assert page.sync().terms == ["causal()", "and not sinks(3)"]
    assert "Queries that see nothing: 3." in page.words()
    assert_page_is_python(page, e)
    page.page.get_by_label("Start from an example").select_option("causal | documents")
    assert page.sync().terms == EXAMPLES["causal | documents"]
    page.page.get_by_role("slider", name="tokens").focus()
    page.page.keyboard.press("Home")
    assert page.sync().n == 1
    assert_page_is_python(page, e)
    page.page.get_by_label("Remove causal").click()
    assert page.page.get_by_label("Remove same_document").is_disabled(), "one rule must stay"


def test_removing_the_first_rule_leaves_a_mask(opened):
    e = MaskBuilder(EXAMPLES["window and sinks"], n=8)
    page = opened(e)
    page.page.get_by_label("Remove sliding_window").click()
    assert page.sync().terms == ["sinks(2)", "and causal()"]
    assert_page_is_python(page, e)


def test_a_cell_says_which_rule_decides(opened):
    e = MaskBuilder(EXAMPLES["window and sinks"], n=12, tokens=list("abcdefghijkl"))
    page = opened(e)
    look = page.page.locator(".cx-look")
    page.cell(9, 2).hover()
    assert look.inner_text() == (
        "Query j, key c: sliding_window(6) no, or sinks(2) no, and causal() yes. So it is blocked."
    )
    page.cell(9, 2).focus()
    page.page.keyboard.press("ArrowLeft")
    assert "sinks(2) yes, and causal() yes. So it may attend." in look.inner_text()


def test_the_focus_stays_in_the_list_when_a_rule_changes(opened):
    page = opened(MaskBuilder(EXAMPLES["window and sinks"], n=8))
    page.page.get_by_label("How causal is joined").focus()
    page.page.get_by_label("How causal is joined").select_option("or")
    assert page.page.evaluate("active().ariaLabel") == "How causal is joined"


# --- generation ----------------------------------------------------------------------------------


def test_every_step_of_every_mode_shows_what_python_recorded(opened):
    e = GenerationExplorer()
    page = opened(e)
    for cheat in (False, True):
        for task in ("writes", "reads"):
            e.cheat, e.task = cheat, task
            for step in (0, 1, 5, 11):
                e.step = step
                assert page.words() == e.words()
                shown = e.data["models"][e.who][task]["steps"][step]
                for (name, _, model, _), (word, p, *_) in zip(
                    table_text(page), shown["bars"], strict=True
                ):
                    assert name.split(" ←")[0] == word and model == f"{p:.2f}"
                chips = page.page.locator(".cx-strip li").all_inner_texts()
                words = e.data["models"][e.who][task]["text"]
                assert chips == words[: step + 2] if task == "writes" else chips == words


def test_next_back_task_and_cheat_by_mouse_and_keyboard(opened):
    e = GenerationExplorer()
    page = opened(e)
    page.page.get_by_role("button", name="Next word").click()
    page.page.keyboard.press("Enter")
    page.page.get_by_role("button", name="Back").click()
    assert page.sync().step == 1
    page.page.get_by_role("checkbox").focus()
    page.page.keyboard.press(" ")
    assert page.sync().cheat and "No cache" in page.words()
    page.page.get_by_label("writes alone").focus()
    page.page.keyboard.press("ArrowRight")
    assert page.sync().task == "reads" and "of the future" in page.words()
    page.cell(7, 3).click()
    assert page.sync().step == 7
    page.page.keyboard.press("ArrowUp")
    page.page.keyboard.press("Enter")
    assert page.sync().step == 6
    assert page.words() == e.words()


def test_the_cache_fills_and_the_cheater_s_keys_are_framed(opened):
    e = GenerationExplorer(step=3)
    page = opened(e)
    line = [page.cell(3, j).inner_text() for j in range(5)]
    assert line == ["kept", "kept", "kept", "new", ""]
    assert page.cell(4, 0).inner_text() == "", "later"
    e.cheat = True
    kinds = classes(page)[3]
    assert kinds[:5] == ["cx-leak", "cx-leak", "cx-leak", "cx-visible", "cx-blocked"]
    moved = e.run.moved[3, 2]
    assert page.cell(3, 2).inner_text() == f"{moved:.1f}"
    assert f"wrong by {moved:.2f}" in page.cell(3, 2).get_attribute("aria-label")
    e.task = "reads"
    assert classes(page)[3] == 4 * ["cx-visible"] + 8 * ["cx-part cx-leak"]
    e.cheat = False
    assert classes(page)[3] == 4 * ["cx-visible"] + 8 * ["cx-blocked"]


def test_what_the_cheat_does_to_the_loss_stands_beside_it(opened):
    page = opened(GenerationExplorer(cheat=True))
    assert table_text(page, 1) == [
        ["honest model", "0.872 ± 0.003", "96.9%"],
        ["cheater", "0.035 ± 0.001", "0.0%"],
    ]
    label = page.page.locator(".cx-chart").get_attribute("aria-label")
    assert label.endswith("Floor 0.87.") and "cheater: from 2.78 to 0.04" in label


def test_own_words_stay_text_and_without_a_cheater_there_is_no_switch(opened):
    model = GPT(GPTConfig(4, 8), np.random.default_rng(0))
    words = ["<img src=x onerror=alert(1)>", "a", "b", "</script>"]
    page = opened(GenerationExplorer(model, [0], n=3, words=words))
    assert page.page.get_by_role("checkbox").count() == 0
    assert page.page.locator(".cx-strip li").first.inner_text() == words[0]
    assert page.page.locator(".cx img").count() == 0
    assert page.page.locator(".cx-chart").count() == 0
