"""A student works on exercises in JupyterLab: wrongly first, then rightly."""

import os
from pathlib import Path

import pytest

from tests.browser.exercise_session import KERNEL, answer_cell, open_exercises, output_below, submit

SCREENSHOTS = os.environ.get("COURSE_SCREENSHOTS")  # a folder to look at, if you want one

INVERTED = """\
def causal_mask(n):
    return np.triu(np.ones((n, n), bool), 1)
"""
RIGHT = """\
def causal_mask(n):
    position = np.arange(n)
    return position[:, None] >= position
"""
ENDLESS = """\
def causal_mask(n):
    while True:
        n = n + 1
"""

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(chromium, lab):
    page = open_exercises(chromium, lab, "02_tril_mask")
    yield page
    page.close()


def photograph(page, name):
    if SCREENSHOTS:
        Path(SCREENSHOTS).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(SCREENSHOTS) / f"exercise_{name}.png")


def test_a_wrong_answer_is_explained_and_a_right_one_is_ticked(page):
    assert output_below(page, "answer-2-2") == "2.2 causal_mask: not done yet"

    submit(page, "answer-2-2", "import numpy as np\n\n\n" + INVERTED)
    text = output_below(page, "answer-2-2")
    assert "you return False; expected True" in text and "This looks like: polarity" in text
    table = page.locator(".jp-OutputArea table[role='img']").first
    assert "Wrong: row The column The" in table.get_attribute("aria-label")
    assert table.bounding_box()["width"] > 150
    photograph(page, "wrong")

    submit(page, "answer-2-2", "import numpy as np\n\n\n" + RIGHT)
    text = output_below(page, "answer-2-2")
    assert "✗" not in text and "claims hold." in text
    photograph(page, "right")


def test_an_endless_loop_can_be_interrupted_and_says_so(page):
    submit(page, "answer-2-2", "import numpy as np\n\n\n" + ENDLESS, wait=False)
    page.wait_for_function(f"() => {KERNEL}.status === 'busy'", timeout=10_000)
    page.wait_for_timeout(1500)
    page.evaluate(f"() => {KERNEL}.interrupt()")
    page.wait_for_function(f"() => {KERNEL}.status === 'idle'", timeout=20_000)
    assert "Interrupted while it ran." in output_below(page, "answer-2-2")


def test_the_task_and_the_check_cannot_be_edited_by_accident_and_the_answer_can(page):
    locked = page.evaluate(
        "() => window.jupyterapp.shell.currentWidget.content.widgets"
        ".map(cell => [cell.model.getMetadata('nbgrader'), cell.model.getMetadata('editable')])"
        ".filter(([grading]) => grading)"
        ".map(([grading, edit]) => grading.locked === (edit === false))"
    )
    assert len(locked) > 10 and all(locked)
    assert answer_cell(page, "answer-2-3") > 0
