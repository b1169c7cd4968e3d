"""Sizes of the parts of a document: each its own, or one for all of them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentpress.compressors import Length, Ratio, Size
from latentpress.ratios import POLICIES, DiscreteSelector, FixedLength, LengthSelector, RatioPolicy
from latentpress.ratios.base import shares

PARTS = st.lists(st.tuples(st.floats(-2, 8), st.integers(1, 600)), min_size=1, max_size=12)
TOKENS = st.lists(st.integers(1, 600), min_size=1, max_size=12)
EVERY = pytest.mark.parametrize("kind", POLICIES.values(), ids=POLICIES)


def made(kind: type[RatioPolicy], selection: str) -> RatioPolicy:
    return kind.make((2, 4, 8, 16, 32), rounding="linear", selection=selection)


def predictions(policy: RatioPolicy, parts: list[tuple[float, int]]) -> tuple[list[float | None], list[int]]:
    return [own if policy.predicts else None for own, _ in parts], [tokens for _, tokens in parts]


@EVERY
@given(parts=PARTS)
def test_by_window_each_part_has_the_size_that_it_would_have_alone(
    kind: type[RatioPolicy], parts: list[tuple[float, int]]
) -> None:
    policy = made(kind, "window")
    told, tokens = predictions(policy, parts)
    expected = [policy.choose(own, 0.0, count) for own, count in zip(told, tokens, strict=True)]
    assert policy.choose_parts(told, 0.0, tokens) == expected


@EVERY
@given(part=st.tuples(st.floats(-2, 8), st.integers(1, 600)))
def test_a_document_of_one_window_becomes_the_same_either_way(kind: type[RatioPolicy], part: tuple[float, int]) -> None:
    policies = [made(kind, selection) for selection in ("window", "document")]
    (told, tokens) = predictions(policies[0], [part])
    counts = [policy.choose_parts(told, 0.0, tokens)[0].latents(part[1]) for policy in policies]
    assert counts[0] == counts[1]


def test_by_document_the_prediction_is_the_mean_by_tokens() -> None:
    policy = DiscreteSelector((2, 4, 8, 16), selection="document")
    assert policy.choose_parts([1.0, 4.0], 0.0, [100, 100]) == [Ratio(4)] * 2  # 2^2.5 is 5.7
    assert policy.choose_parts([1.0, 4.0], 0.0, [10, 190]) == [Ratio(16)] * 2
    assert policy.choose_parts([1.0, 4.0], 1.0, [190, 10]) == [Ratio(4)] * 2


def test_a_length_for_a_document_is_that_of_all_its_tokens_shared_out() -> None:
    policy = LengthSelector((16, 32, 64, 128), selection="document")
    assert policy.choose_parts([3.0, 3.0, 3.0], 0.0, [171, 171, 170]) == [Length(22), Length(21), Length(21)]
    assert FixedLength((16, 64), selection="document").choose_parts([None] * 2, 0.0, [30, 10]) == [
        Length(30),
        Length(10),
    ]


@EVERY
@pytest.mark.parametrize("selection", ["window", "document"])
def test_an_asked_for_size_is_that_of_each_part_unless_a_document_shares_a_length(
    kind: type[RatioPolicy], selection: str
) -> None:
    policy = made(kind, selection)
    size: Size = policy.fixed(8)
    spread = policy.spread(size, [40, 40, 20])
    shared = kind.kind is Length and selection == "document"
    assert spread == ([Length(3), Length(3), Length(2)] if shared else [size] * 3)


@given(st.integers(1, 3000), TOKENS)
def test_shares_add_up_and_each_part_has_one_at_least_and_no_more_than_its_tokens(
    length: int, tokens: list[int]
) -> None:
    found = shares(length, tokens)
    assert sum(found) == max(min(length, sum(tokens)), len(tokens))
    assert all(1 <= share <= count for share, count in zip(found, tokens, strict=True))


@given(st.integers(1, 3000), TOKENS)
def test_a_larger_part_never_has_a_smaller_share(length: int, tokens: list[int]) -> None:
    pairs = sorted(zip(tokens, shares(length, tokens), strict=True))
    assert all(small <= large for (_, small), (_, large) in itertools.pairwise(pairs))


@given(st.integers(20, 3000), st.lists(st.integers(100, 120), min_size=1, max_size=12))
def test_shares_are_the_proportions_within_one(length: int, tokens: list[int]) -> None:
    total = min(length, sum(tokens))
    for share, count in zip(shares(length, tokens), tokens, strict=True):
        assert abs(share - total * count / sum(tokens)) < 1
