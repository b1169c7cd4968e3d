"""The selector rounds where the paper's code rounds, to the nearest candidate, whatever it is given."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentpress.compressors import Ratio
from latentpress.errors import RatioError
from latentpress.ratios import DiscreteSelector, RatioPolicy

PAPER = (2, 4, 8, 16, 32)
LINEAR, LOG = DiscreteSelector(PAPER), DiscreteSelector(PAPER, "log")
CANDIDATES = st.sets(st.integers(1, 300), min_size=1, max_size=8).map(sorted)


def chosen(policy: RatioPolicy, ratio: float, scale: float = 0.0) -> int:
    size = policy.choose(math.log2(ratio), scale, 100)
    assert isinstance(size, Ratio)
    return size.value


@pytest.mark.parametrize(
    ("policy", "threshold", "below", "above"),
    [
        (LINEAR, 3, 2, 4),
        (LINEAR, 6, 4, 8),
        (LINEAR, 12, 8, 16),
        (LINEAR, 24, 16, 32),
        (LOG, 2 * math.sqrt(2), 2, 4),
        (LOG, 4 * math.sqrt(2), 4, 8),
        (LOG, 8 * math.sqrt(2), 8, 16),
        (LOG, 16 * math.sqrt(2), 16, 32),
    ],
)
def test_thresholds_are_the_papers(policy: DiscreteSelector, threshold: float, below: int, above: int) -> None:
    assert chosen(policy, threshold - 1e-9) == below
    assert chosen(policy, threshold + 1e-9) == above


def test_thresholds_of_powers_of_two_are_these() -> None:
    assert [2**t for t in LINEAR.thresholds] == pytest.approx([3, 6, 12, 24], rel=1e-12)
    assert [2**t for t in LOG.thresholds] == pytest.approx([2.83, 5.66, 11.3, 22.6], rel=2e-3)


@pytest.mark.parametrize(("ratio", "kept"), [(3, 2), (6, 4), (12, 8), (24, 16)])
def test_a_tie_keeps_more(ratio: float, kept: int) -> None:
    assert chosen(LINEAR, ratio) == kept


@given(CANDIDATES, st.floats(-12, 12), st.sampled_from(["linear", "log"]))
def test_the_choice_is_the_nearest_candidate(candidates: list[int], log2_ratio: float, rounding: Any) -> None:
    size = DiscreteSelector(candidates, rounding).choose(log2_ratio, 0.0, 100)
    distance = (
        (lambda c: abs(c - 2**log2_ratio)) if rounding == "linear" else (lambda c: abs(math.log2(c) - log2_ratio))
    )
    assert distance(size.value) <= min(map(distance, candidates)) + 1e-9 * (1 + 2**log2_ratio)


@given(st.floats(-4, 8), st.floats(-4, 4))
def test_the_scale_shifts_the_prediction(log2_ratio: float, scale: float) -> None:
    assert LINEAR.choose(log2_ratio, scale, 100) == LINEAR.choose(log2_ratio + scale, 0.0, 100)


@given(st.floats(-4, 8), st.floats(-4, 4), st.floats(0, 4))
def test_a_higher_scale_never_keeps_more(log2_ratio: float, scale: float, more: float) -> None:
    assert LINEAR.choose(log2_ratio, scale, 100).value <= LINEAR.choose(log2_ratio, scale + more, 100).value


def test_a_scale_of_one_doubles_the_ratio() -> None:
    assert [chosen(LINEAR, 4, scale) for scale in (-9, -1, 0, 1, 2, 3, 9)] == [2, 2, 4, 8, 16, 32, 32]


@pytest.mark.parametrize(("log2_ratio", "end"), [(-1e300, 2), (-1e9, 2), (0.0, 2), (5000.0, 32), (1e300, 32)])
def test_extreme_predictions_take_the_ends(log2_ratio: float, end: int) -> None:
    assert LINEAR.choose(log2_ratio, 0.0, 100) == Ratio(end)


@pytest.mark.parametrize(
    ("log2_ratio", "scale"),
    [(math.nan, 0.0), (2.0, math.nan), (math.inf, 0.0), (-math.inf, 0.0), (2.0, math.inf), (None, 0.0), (1e308, 1e308)],
)
def test_what_is_no_number_is_refused(log2_ratio: float | None, scale: float) -> None:
    with pytest.raises(RatioError, match=re.escape(f"got {log2_ratio} and {scale}")):
        LINEAR.choose(log2_ratio, scale, 100)


def test_a_single_candidate_is_always_chosen() -> None:
    assert {chosen(DiscreteSelector([5]), ratio) for ratio in (0.1, 5, 999)} == {5}


def test_an_unknown_rounding_is_refused() -> None:
    with pytest.raises(RatioError, match="'cubic' is unknown; choose linear or log"):
        DiscreteSelector(PAPER, "cubic")  # type: ignore[arg-type]
