"""The published tables of the running example hold, to the last printed digit."""

import numpy as np
import pytest

from course_lib import example
from course_lib.attention import attention, masked_softmax
from course_lib.example import FOUR_SCORES, PUBLISHED, TOKENS, K, Q, V
from course_lib.masks import causal
from course_lib.trace import trace

pytestmark = pytest.mark.fast

CAUSAL = trace(Q, K, V, causal(), TOKENS)
STANDARD = trace(Q, K, V, None, TOKENS)


def assert_printed(computed, published, digits=4):
    """Equal once rounded to the printed digits; the last digit of the print must be right."""
    computed, published = np.asarray(computed), np.asarray(published)
    assert computed.shape == published.shape
    with np.errstate(invalid="ignore"):
        assert np.array_equal(np.round(computed, digits), np.round(published, digits))


@pytest.mark.parametrize("table", ["raw", "scaled", "masked", "weights", "output"])
def test_every_published_table_is_reproduced(table):
    assert_printed(getattr(CAUSAL, table), PUBLISHED[table])


def test_published_standard_outputs_are_reproduced():
    assert_printed(STANDARD.output[0], PUBLISHED["standard_output_The"])
    assert_printed(STANDARD.output[1, 2:], PUBLISHED["standard_output_cat_2_3"])
    assert_printed(STANDARD.output[2], PUBLISHED["standard_output_sat"])


def test_the_last_row_of_causal_attention_is_standard_attention():
    assert np.array_equal(CAUSAL.weights[-1], STANDARD.weights[-1])
    assert not np.allclose(CAUSAL.weights[:-1], STANDARD.weights[:-1])


def test_published_softmax_fractions_are_reproduced():
    powers = np.exp(CAUSAL.masked[:4])
    last_visible = powers[np.arange(4), [0, 0, 0, 3]]  # the numerator that the document prints
    assert_printed(last_visible, PUBLISHED["softmax_numerators"], 3)
    assert_printed(powers.sum(axis=1), PUBLISHED["softmax_denominators"], 3)


def test_the_worked_row_of_sat_is_reproduced():
    i = example.position("sat")
    assert_printed(CAUSAL.raw[i], PUBLISHED["sat_dot_products"])
    assert_printed(CAUSAL.scaled[i, : i + 1], PUBLISHED["sat_scaled_visible"])


def test_the_four_score_row_is_reproduced():
    visible = np.array([True, True, True, False])
    shifted = FOUR_SCORES - FOUR_SCORES.max()
    powers = np.exp(shifted)
    assert_printed(shifted, PUBLISHED["four_scores_shifted"])
    assert_printed(powers, PUBLISHED["four_scores_exp"])
    assert_printed(powers[visible].sum(), PUBLISHED["four_scores_sum_masked"])
    assert_printed(powers.sum(), PUBLISHED["four_scores_sum_unmasked"])
    assert_printed(masked_softmax(FOUR_SCORES, visible), PUBLISHED["four_scores_weights_masked"])
    assert_printed(masked_softmax(FOUR_SCORES), PUBLISHED["four_scores_weights_unmasked"])


def test_a_wrong_digit_in_a_published_table_would_be_noticed():
    wrong = PUBLISHED["weights"].copy()
    wrong[1, 0] += 0.0001
    with pytest.raises(AssertionError):
        assert_printed(CAUSAL.weights, wrong)


def test_the_example_cannot_be_changed_by_accident():
    with pytest.raises(ValueError, match="read-only"):
        Q[0, 0] = 7
    attention(Q, K, V, causal())  # computing with it is fine


def test_an_unknown_token_is_named_together_with_the_known_ones():
    with pytest.raises(ValueError, match=r"token: expected one of The, cat.*got 'dog'"):
        example.position("dog")
