"""Minutes: what is counted, what is not, and which lessons are still too long."""

import jupytext
import pytest

from course_tools.build.minutes import CLASS_HOUR, Reading, minutes_of, reading
from course_tools.project import load_project
from tests.helpers.paths import ROOT

PROJECT = load_project(ROOT)
#: Lessons that take longer than a class hour, until they are cut; nothing may be added.
TOO_LONG = {"01_contract", "04_batching", "05_kv_cache", "06_prefix_lm", "07_flash_on_gpu"}
TOO_LONG |= {"A_mask_bug_museum", "B_auditing_the_sources"}


def read(text):
    return reading(jupytext.reads(text, fmt="py:percent").cells)


def test_words_shown_lines_and_predictions_are_counted():
    text = (
        "# %% [markdown]\n# # One title\n#\n# **Predict.** What comes?\n\n"
        "# %%\nx = 1\n\n# a comment\nprint(x)\n"
    )
    assert read(text) == Reading(words=5, lines=2, predictions=1)


@pytest.mark.parametrize(
    "text",
    [
        "# %% [markdown]\n# <details><summary>Answer</summary> many words</details>\n",
        "# %% [markdown]\n# ## References\n#\n# - A paper\n\n# %% [markdown]\n# and another\n",
        '# %% tags=["setup"]\nimport course_lib\n',
        '# %% tags=["figure"]\n# @title A picture\nlines(1)\n',
    ],
)
def test_folded_answers_references_setup_and_figures_are_not_counted(text):
    assert read(text) == Reading(0, 0, 0)


def test_the_words_of_a_link_count_and_its_address_does_not():
    assert read("# %% [markdown]\n# see [this page](https://example.org/a-b-c)\n").words == 3


def test_a_heading_after_the_references_counts_again():
    text = "# %% [markdown]\n# ## References\n\n# %% [markdown]\n# ## After them\n"
    assert read(text).words == 2


def test_minutes_are_words_by_200_lines_by_8_and_one_a_prediction():
    assert Reading(words=400, lines=80, predictions=3).minutes == 2 + 10 + 3


@pytest.mark.parametrize("notebook", PROJECT.notebooks, ids=lambda n: n.name)
def test_a_notebook_fits_a_class_hour(notebook):
    fits = minutes_of(ROOT / notebook.source) <= CLASS_HOUR
    assert fits != (notebook.name in TOO_LONG), "remove it from TOO_LONG" if fits else "too long"
