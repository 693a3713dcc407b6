"""The running example of every chapter: five tokens, their Q, K and V, and the published tables.

"The cat sat on the mat" has six words; the second "the" is left out, so that no word comes twice.
Query, key and value vectors have d_k = d_v = 4 entries, chosen so small that every number of the
chapters can be checked by hand.

`PUBLISHED` holds the tables as the course's source documents print them (two to four decimals).
They are data under test, not results: the library recomputes each and the tests compare.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOKENS: tuple[str, ...] = ("The", "cat", "sat", "on", "mat")


def _constant(values: Any) -> NDArray[np.float64]:
    """A float64 array that cannot be changed by accident."""
    array = np.array(values, dtype=np.float64)
    array.setflags(write=False)
    return array


#: Queries, shape [5, 4]: what each token looks for.
Q = _constant(
    [
        [1, 0, 1, 0],  # The
        [0, 2, 0, 1],  # cat
        [1, 1, 1, 0],  # sat
        [0, 0, 1, 1],  # on
        [1, 0, 0, 1],  # mat
    ]
)

#: Keys, shape [5, 4]: what each token offers to be found by.
K = _constant(
    [
        [0, 1, 0, 1],  # The
        [1, 0, 1, 0],  # cat
        [1, 1, 0, 0],  # sat
        [0, 0, 1, 1],  # on
        [1, 0, 0.5, 0.5],  # mat
    ]
)

#: Values, shape [5, 4]: what each token hands over. The first four are the unit vectors, so the
#: output of a query reads off its weights directly.
V = _constant(
    [
        [1, 0, 0, 0],  # The
        [0, 1, 0, 0],  # cat
        [0, 0, 1, 0],  # sat
        [0, 0, 0, 1],  # on
        [0.5, 0.5, 0.5, 0.5],  # mat
    ]
)

_INF = np.inf

#: The published tables. Rows are queries, columns are keys (or the four output entries).
PUBLISHED: Mapping[str, NDArray[np.float64]] = MappingProxyType(
    {
        "raw": _constant(
            [
                [0.00, 2.00, 1.00, 1.00, 1.50],
                [3.00, 0.00, 2.00, 1.00, 0.50],
                [1.00, 2.00, 2.00, 1.00, 1.50],
                [1.00, 1.00, 0.00, 2.00, 1.00],
                [1.00, 1.00, 1.00, 1.00, 1.50],
            ]
        ),
        "scaled": _constant(
            [
                [0.000, 1.000, 0.500, 0.500, 0.750],
                [1.500, 0.000, 1.000, 0.500, 0.250],
                [0.500, 1.000, 1.000, 0.500, 0.750],
                [0.500, 0.500, 0.000, 1.000, 0.500],
                [0.500, 0.500, 0.500, 0.500, 0.750],
            ]
        ),
        "masked": _constant(
            [
                [0.000, -_INF, -_INF, -_INF, -_INF],
                [1.500, 0.000, -_INF, -_INF, -_INF],
                [0.500, 1.000, 1.000, -_INF, -_INF],
                [0.500, 0.500, 0.000, 1.000, -_INF],
                [0.500, 0.500, 0.500, 0.500, 0.750],
            ]
        ),
        "weights": _constant(
            [
                [1.0000, 0.0000, 0.0000, 0.0000, 0.0000],
                [0.8176, 0.1824, 0.0000, 0.0000, 0.0000],
                [0.2327, 0.3837, 0.3837, 0.0000, 0.0000],
                [0.2350, 0.2350, 0.1425, 0.3875, 0.0000],
                [0.1892, 0.1892, 0.1892, 0.1892, 0.2430],
            ]
        ),
        "output": _constant(
            [
                [1.0000, 0.0000, 0.0000, 0.0000],
                [0.8176, 0.1824, 0.0000, 0.0000],
                [0.2327, 0.3837, 0.3837, 0.0000],
                [0.2350, 0.2350, 0.1425, 0.3875],
                [0.3108, 0.3108, 0.3108, 0.3108],
            ]
        ),
        # The two standard (unmasked) output rows that are printed in full.
        "standard_output_The": _constant([0.2254, 0.4135, 0.2964, 0.2964]),
        "standard_output_sat": _constant([0.2495, 0.3481, 0.3481, 0.2495]),
        # Entries 2 and 3 of the standard output of "cat".
        "standard_output_cat_2_3": _constant([0.3018, 0.2058]),
        # The softmax of each row, as printed beside its numerator and denominator.
        "softmax_numerators": _constant([1.000, 4.482, 1.649, 2.718]),  # rows The, cat, sat, on
        "softmax_denominators": _constant([1.000, 5.482, 7.085, 7.016]),
        # The worked row of "sat": dot products with every key, and scaled.
        "sat_dot_products": _constant([1.0, 2.0, 2.0, 1.0, 1.5]),
        "sat_scaled_visible": _constant([0.500, 1.000, 1.000]),
        # A second document's row of four scores, whose last column is blocked.
        "four_scores_shifted": _constant([-2.0, -3.0, 0.0, -1.0]),
        "four_scores_exp": _constant([0.1353, 0.0498, 1.0000, 0.3679]),
        "four_scores_sum_masked": _constant(1.1851),
        "four_scores_weights_masked": _constant([0.1142, 0.0420, 0.8438, 0.0000]),
        "four_scores_sum_unmasked": _constant(1.5530),
        "four_scores_weights_unmasked": _constant([0.0871, 0.0321, 0.6439, 0.2369]),
    }
)

#: The row of four scores behind the `four_scores_*` tables (its maximum is 4).
FOUR_SCORES = _constant([2, 1, 4, 3])


def position(token: str) -> int:
    """The position of a token of the running example.

    Args:
        token: one of `TOKENS`.

    Returns:
        Its position, counted from 0.

    Raises:
        ValueError: if the sentence has no such token.
    """
    if token not in TOKENS:
        raise ValueError(f"token: expected one of {', '.join(TOKENS)}; got {token!r}")
    return TOKENS.index(token)
