"""Claims about the figure of what a cache holds."""

import numpy as np
import pytest

from course_lib.figures.cache import Key, cache_view

WORDS = ["The", "cat", "sat"]


def test_the_description_counts_the_cells_of_each_kind():
    kept = np.where(np.tri(3, k=-1), Key.KEPT, np.tri(3))
    stale = np.where(np.tri(3, k=-1), Key.STALE, np.tri(3))
    figure = cache_view({"none": np.tri(3), "cache": kept, "cheat": stale}, WORDS, WORDS)
    assert figure.alt == (
        "none: 6 keys computed in 3 steps. "
        "cache: 3 keys computed in 3 steps, 3 read from the cache. "
        "cheat: 3 keys computed in 3 steps, 3 read although now wrong."
    )


def test_the_same_data_gives_the_same_bytes():
    first, second = (cache_view({"x": np.tri(3)}, WORDS, WORDS).png() for _ in range(2))
    assert first == second and first.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("panels", "message"),
    [
        ({}, "panels: expected at least one; got none"),
        ({"x": np.tri(2)}, r"panels: expected shape \[3, 3\] for 'x'; got \[2, 2\]"),
        ({"x": 7 * np.tri(3)}, "panels: expected values of Key in 'x'"),
    ],
)
def test_what_does_not_fit_is_refused(panels, message):
    with pytest.raises(ValueError, match=message):
        cache_view(panels, WORDS, WORDS)
