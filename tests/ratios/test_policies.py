"""What every ratio policy keeps to, whatever it counts: candidates, what a user may ask for, what training draws."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentpress.compressors import Length, Ratio, Size
from latentpress.errors import RatioError
from latentpress.ratios import POLICIES, USUAL, ContinuousRatio, FixedLength, FixedRatio, RatioPolicy, size_name

PAPER = (2, 4, 8, 16, 32)
EVERY = pytest.mark.parametrize("kind", POLICIES.values(), ids=POLICIES)
DISCRETE = pytest.mark.parametrize(
    "kind", [kind for name, kind in POLICIES.items() if "continuous" not in name], ids=lambda kind: str(kind.name)
)


def chosen(policy: RatioPolicy, log2_ratio: float, tokens: int) -> Size:
    return policy.choose(log2_ratio if policy.predicts else None, 0.0, tokens)


@EVERY
@pytest.mark.parametrize("candidates", [(), (0, 2), (-2,), (4, 2), (2, 2)])
def test_candidates_that_make_no_sense_are_refused(kind: type[RatioPolicy], candidates: Sequence[int]) -> None:
    example = re.escape(str(list(USUAL[kind.kind])))
    with pytest.raises(RatioError, match=rf"candidates .* whole {kind.word()}s .* for example {example}"):
        kind(candidates)


@EVERY
def test_an_unknown_selection_is_refused(kind: type[RatioPolicy]) -> None:
    with pytest.raises(RatioError, match="selection 'page' is unknown; choose window or document"):
        kind.make(PAPER, rounding="linear", selection="page")


@EVERY
@pytest.mark.parametrize("value", [2, 4.0, 32])
def test_the_user_may_ask_for_any_candidate(kind: type[RatioPolicy], value: float) -> None:
    assert kind(PAPER).fixed(value) == kind.kind(int(value))


@DISCRETE
@pytest.mark.parametrize("value", [3, 4.5, 0, -4, 64, math.nan, math.inf])
def test_another_size_is_refused_with_the_candidates(kind: type[RatioPolicy], value: float) -> None:
    with pytest.raises(RatioError, match=rf"{kind.word()} {value:g} .*choose one of 2, 4, 8, 16, 32, or none"):
        kind(PAPER).fixed(value)


@EVERY
@given(tokens=st.integers(1, 3000), log2_ratio=st.floats(-9, 12))
def test_no_size_gives_more_latents_than_the_most_or_than_there_are_tokens(
    kind: type[RatioPolicy], tokens: int, log2_ratio: float
) -> None:
    policy = kind(PAPER)
    most = policy.most(tokens)
    assert most == max(policy.fixed(value).latents(tokens) for value in PAPER) <= tokens
    assert 1 <= chosen(policy, log2_ratio, tokens).latents(tokens) <= most


@EVERY
def test_candidates_are_ordered_from_most_latents_to_fewest(kind: type[RatioPolicy]) -> None:
    sizes = kind(PAPER).ordered()
    assert sorted(size.value for size in sizes) == list(PAPER)
    counts = [size.latents(1000) for size in sizes]
    assert counts == sorted(counts, reverse=True)


@DISCRETE
def test_training_draws_candidates_by_their_weights(kind: type[RatioPolicy]) -> None:
    policy, draw = kind((2, 4, 8)), random.Random(0)
    drawn = Counter(policy.draw(draw, (3.0, 1.0, 0.0)) for _ in range(400))
    assert set(drawn) == {kind.kind(2), kind.kind(4)}
    assert 2 < drawn[kind.kind(2)] / drawn[kind.kind(4)] < 4.5


def test_a_draw_of_candidates_is_that_of_older_versions() -> None:
    weights = (3.0, 5.0, 2.0)
    ours, theirs = random.Random("0/step/7"), random.Random("0/step/7")
    assert FixedRatio((2, 4, 8)).draw(ours, weights).value == theirs.choices((2, 4, 8), weights)[0]
    assert ours.random() == theirs.random()


@pytest.mark.parametrize(("kind", "size"), [(FixedRatio, Ratio(4)), (FixedLength, Length(64))])
def test_a_fixed_policy_takes_the_candidate_that_keeps_most_and_no_scale(kind: type[RatioPolicy], size: Size) -> None:
    policy = kind((4, 8) if kind is FixedRatio else (16, 64))
    assert policy.choose(None, 0.0, 500) == size
    for scale in (1.0, -0.5, math.nan):
        with pytest.raises(RatioError, match=f"fixed {kind.word()}; use {kind.word()}= with one of"):
            policy.choose(None, scale, 500)


def test_every_policy_is_listed_by_its_name_and_says_what_it_does() -> None:
    for name, kind in POLICIES.items():
        assert kind.name == name
        assert kind.describe
        assert isinstance(kind.predicts, bool)


def test_sizes_have_short_names() -> None:
    assert (size_name(Ratio(4)), size_name(Length(64))) == ("x4", "m64")


@pytest.mark.parametrize("kind", [Ratio, Length])
@pytest.mark.parametrize("value", [0, -1, 2.5, 4.0, math.nan, "4"])
def test_what_is_no_whole_number_of_at_least_1_is_no_size(kind: type[Size], value: object) -> None:
    with pytest.raises(RatioError, match=re.escape(f"size {value!r} must be a whole number of at least 1")):
        kind(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(("ratio", "kept"), [(1.5, 1), (2.5, 2), (3.5, 3)])
def test_a_half_of_a_continuous_ratio_keeps_more(ratio: float, kept: int) -> None:
    assert ContinuousRatio((1, 9)).choose(math.log2(ratio), 0.0, 100) == Ratio(kept)
