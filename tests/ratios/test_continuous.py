"""Fully dynamic sizes are any whole number between the ends, and training draws from all of them."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentpress.compressors import Length, Ratio
from latentpress.errors import RatioError
from latentpress.ratios import ContinuousLength, ContinuousRatio, RatioPolicy

BOTH = pytest.mark.parametrize("kind", [ContinuousRatio, ContinuousLength], ids=lambda kind: str(kind.name))


@given(st.floats(-3, 9), st.floats(-4, 4), st.integers(1, 2000))
def test_a_ratio_is_the_predicted_one_rounded_and_clamped(log2_ratio: float, scale: float, tokens: int) -> None:
    size = ContinuousRatio((2, 32)).choose(log2_ratio, scale, tokens)
    ratio = 2 ** (log2_ratio + scale)
    assert isinstance(size, Ratio)
    assert 2 <= size.value <= 32
    assert abs(size.value - min(max(ratio, 2), 32)) <= 0.5 + 1e-9


@given(st.floats(-3, 9), st.floats(-4, 4), st.integers(1, 2000))
def test_a_length_is_the_tokens_over_the_predicted_ratio_rounded_and_clamped(
    log2_ratio: float, scale: float, tokens: int
) -> None:
    size = ContinuousLength((16, 128)).choose(log2_ratio, scale, tokens)
    target = tokens / 2 ** (log2_ratio + scale)
    assert isinstance(size, Length)
    assert 16 <= size.value <= 128
    assert abs(size.value - min(max(target, 16), 128)) <= 0.5 + 1e-9
    assert size.latents(tokens) <= tokens


def test_a_half_is_rounded_to_keep_more() -> None:
    assert ContinuousLength((1, 9)).choose(1.0, 0.0, 5) == Length(3)
    assert ContinuousLength((1, 9)).choose(1.0, 0.0, 7) == Length(4)


@pytest.mark.parametrize("log2_ratio", [-1e300, 1e300])
@BOTH
def test_extreme_predictions_take_the_ends(kind: type[RatioPolicy], log2_ratio: float) -> None:
    few = (log2_ratio > 0) is (kind is ContinuousLength)
    assert kind((3, 7)).choose(log2_ratio, 0.0, 10**9).value == (3 if few else 7)


@BOTH
def test_the_user_may_ask_for_any_whole_number_between_the_ends(kind: type[RatioPolicy]) -> None:
    policy = kind((2, 4, 32))
    assert [policy.fixed(value) for value in (2, 3, 17.0, 32)] == [kind.kind(value) for value in (2, 3, 17, 32)]


@pytest.mark.parametrize("value", [1, 33, 4.5, 0, -4, math.nan, math.inf])
@BOTH
def test_what_is_no_whole_number_between_the_ends_is_refused(kind: type[RatioPolicy], value: float) -> None:
    with pytest.raises(RatioError, match=rf"{kind.word()} {value:g} .*choose a whole number from 2 to 32, or none"):
        kind((2, 4, 32)).fixed(value)


@BOTH
def test_training_draws_all_whole_numbers_log_uniformly(kind: type[RatioPolicy]) -> None:
    policy, draw = kind((2, 4, 8, 32)), random.Random(0)
    drawn = Counter(policy.draw(draw, (1.0,) * 4).value for _ in range(20_000))
    assert set(drawn) == set(range(2, 33))
    for low, high in ((3, 5), (6, 11), (12, 23)):
        share = sum(drawn[value] for value in range(low, high + 1)) / 20_000
        assert share == pytest.approx(math.log((high + 0.5) / (low - 0.5)) / math.log(16), rel=0.06)


@BOTH
def test_an_interval_weighs_as_the_candidates_at_its_ends(kind: type[RatioPolicy]) -> None:
    policy, draw = kind((2, 4, 8, 16)), random.Random(0)
    drawn = [policy.draw(draw, (3.0, 1.0, 0.0, 0.0)).value for _ in range(4000)]
    assert max(drawn) == 8  # both ends of the last interval weigh nothing
    # Two against one half; 4 itself, rounded, is of both.
    assert sum(value < 4 for value in drawn) / sum(value > 4 for value in drawn) == pytest.approx(4, rel=0.25)


@BOTH
def test_a_single_candidate_is_always_drawn(kind: type[RatioPolicy]) -> None:
    assert kind((5,)).draw(random.Random(0), (1.0,)) == kind.kind(5)
