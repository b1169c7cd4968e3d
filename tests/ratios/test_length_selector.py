"""The selector by length takes the number of latents nearest to T / r, and never more than there are tokens."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentpress.compressors import Length
from latentpress.errors import RatioError
from latentpress.ratios import LengthSelector

PAPER = (16, 32, 64, 128)
CANDIDATES = st.sets(st.integers(1, 300), min_size=1, max_size=8).map(sorted)
ROUNDING = st.sampled_from(["linear", "log"])


@pytest.mark.parametrize(
    ("rounding", "threshold", "below", "above"),
    [
        ("linear", 24, 16, 32),
        ("linear", 48, 32, 64),
        ("linear", 96, 64, 128),
        ("log", 16 * math.sqrt(2), 16, 32),
        ("log", 32 * math.sqrt(2), 32, 64),
        ("log", 64 * math.sqrt(2), 64, 128),
    ],
)
@pytest.mark.parametrize("tokens", [128, 500, 512, 1300])
def test_thresholds_lie_between_the_candidates_in_tokens_or_in_their_logarithms(
    rounding: str, threshold: float, below: int, above: int, tokens: int
) -> None:
    policy = LengthSelector(PAPER, rounding)
    at = math.log2(tokens / threshold)
    assert policy.choose(at + 1e-9, 0.0, tokens) == Length(below)
    assert policy.choose(at - 1e-9, 0.0, tokens) == Length(above)


@pytest.mark.parametrize(
    ("rounding", "tokens", "log2_ratio", "kept"),
    [("linear", 96, 2.0, 32), ("linear", 384, 3.0, 64), ("linear", 96, 0.0, 128), ("log", 64, 1.5, 32)],
)
def test_a_tie_keeps_more(rounding: str, tokens: int, log2_ratio: float, kept: int) -> None:
    assert LengthSelector(PAPER, rounding).choose(log2_ratio, 0.0, tokens) == Length(kept)


@given(CANDIDATES, st.floats(-9, 12), st.integers(1, 5000), ROUNDING)
def test_the_choice_is_the_nearest_candidate(
    candidates: list[int], log2_ratio: float, tokens: int, rounding: str
) -> None:
    size = LengthSelector(candidates, rounding).choose(log2_ratio, 0.0, tokens)
    target = tokens / 2**log2_ratio

    def distance(length: int) -> float:
        return abs(length - target) if rounding == "linear" else abs(math.log2(length / target))

    assert distance(size.value) <= min(map(distance, candidates)) + 1e-9 * (1 + target)


@given(CANDIDATES, st.floats(-9, 12), st.integers(1, 400), ROUNDING)
def test_a_text_never_becomes_more_latents_than_it_has_tokens(
    candidates: list[int], log2_ratio: float, tokens: int, rounding: str
) -> None:
    size = LengthSelector(candidates, rounding).choose(log2_ratio, 0.0, tokens)
    assert 1 <= size.latents(tokens) <= tokens
    assert size.latents(tokens) == min(size.value, tokens)


@given(st.floats(-4, 8), st.floats(-4, 4), st.floats(0, 4), st.integers(1, 2000), ROUNDING)
def test_a_higher_scale_never_keeps_more(
    log2_ratio: float, scale: float, more: float, tokens: int, rounding: str
) -> None:
    policy = LengthSelector(PAPER, rounding)
    assert policy.choose(log2_ratio, scale + more, tokens).value <= policy.choose(log2_ratio, scale, tokens).value


@given(st.floats(-4, 8), st.integers(1, 1000), st.integers(1, 1000), ROUNDING)
def test_a_longer_text_of_the_same_density_never_gets_fewer_latents(
    log2_ratio: float, tokens: int, more: int, rounding: str
) -> None:
    policy = LengthSelector(PAPER, rounding)
    assert policy.choose(log2_ratio, 0.0, tokens).value <= policy.choose(log2_ratio, 0.0, tokens + more).value


def test_linear_and_log_rounding_part_between_their_thresholds() -> None:
    at = math.log2(512 / 23.5)  # above 22.6 and below 24
    assert LengthSelector(PAPER, "linear").choose(at, 0.0, 512) == Length(16)
    assert LengthSelector(PAPER, "log").choose(at, 0.0, 512) == Length(32)


@pytest.mark.parametrize(("log2_ratio", "end"), [(-1e300, 128), (-1e9, 128), (5000.0, 16), (1e300, 16)])
@pytest.mark.parametrize("rounding", ["linear", "log"])
def test_extreme_predictions_take_the_ends(log2_ratio: float, end: int, rounding: str) -> None:
    assert LengthSelector(PAPER, rounding).choose(log2_ratio, 0.0, 10**9) == Length(end)


@pytest.mark.parametrize(("log2_ratio", "scale"), [(math.nan, 0.0), (2.0, math.inf), (None, 0.0), (1e308, 1e308)])
def test_what_is_no_number_is_refused(log2_ratio: float | None, scale: float) -> None:
    with pytest.raises(RatioError, match=re.escape(f"got {log2_ratio} and {scale}")):
        LengthSelector(PAPER).choose(log2_ratio, scale, 100)


def test_an_unknown_rounding_is_refused() -> None:
    with pytest.raises(RatioError, match="'cubic' is unknown; choose linear or log"):
        LengthSelector(PAPER, "cubic")
