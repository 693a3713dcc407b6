"""The ring figure says in words who owns what and how much each rank computes."""

import pytest

from course_lib.figures.ring import ring_view, tiles_of
from course_lib.flash.ring import positions


@pytest.mark.parametrize("split", ["zigzag", "contiguous"])
def test_the_words_count_what_the_library_splits(split):
    owners = [0] * 8
    for rank in range(4):
        for chunk in positions(rank, 4, 8, split):
            owners[chunk] = rank
    work = tiles_of(owners)
    assert sum(work.values()) == 8 * 8 / 2
    assert list(work.values()) == ([8.0] * 4 if split == "zigzag" else [2.0, 6.0, 10.0, 14.0])
    figure = ring_view({split: owners})
    assert f"rank 3 owns chunks {'3 and 4' if split == 'zigzag' else '6 and 7'}" in figure.alt
    assert figure.png() == ring_view({split: owners}).png()


def test_errors_of_the_view():
    with pytest.raises(ValueError, match="panels: expected at least one"):
        ring_view({})
    with pytest.raises(ValueError, match="'many' needs ranks from 0 to 4"):
        ring_view({"many": [0, 5]})
