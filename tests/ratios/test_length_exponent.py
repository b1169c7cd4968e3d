"""Long documents are compressed harder than short ones, by the tokens of the document, whatever its windows."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentpress.compressors import Length, Ratio
from latentpress.errors import RatioError
from latentpress.ratios import POLICIES, ContinuousRatio, DiscreteSelector, LengthSelector, RatioPolicy
from latentpress.ratios.base import LONG, SHORT

CANDIDATES = (1, 2, 4, 8, 16, 32)
PREDICTS = pytest.mark.parametrize("kind", [kind for kind in POLICIES.values() if kind.predicts])
PARTS = st.lists(st.tuples(st.floats(-2, 8), st.integers(1, 600)), min_size=1, max_size=12)


def made(kind: type[RatioPolicy], exponent: float, selection: str = "window") -> RatioPolicy:
    return kind.make(CANDIDATES, rounding="linear", selection=selection, length_exponent=exponent)


@PREDICTS
@given(y=st.floats(-2, 8), scale=st.floats(-3, 3), tokens=st.integers(1, SHORT))
def test_a_short_document_gets_what_is_predicted(kind: type[RatioPolicy], y: float, scale: float, tokens: int) -> None:
    plain, raised = (made(kind, exponent).choose_parts([y], scale, [tokens]) for exponent in (0.0, 0.7))
    assert plain == raised


@PREDICTS
@pytest.mark.parametrize("selection", ["window", "document"])
@given(parts=PARTS, exponent=st.floats(0, 2))
def test_it_is_a_scale_by_the_tokens_of_the_document(
    kind: type[RatioPolicy], selection: str, parts: list[tuple[float, int]], exponent: float
) -> None:
    told, tokens = [y for y, _ in parts], [count for _, count in parts]
    scale = exponent * math.log2(min(max(sum(tokens), SHORT), LONG) / SHORT)
    expected = made(kind, 0.0, selection).choose_parts(told, scale, tokens)
    assert made(kind, exponent, selection).choose_parts(told, 0.0, tokens) == expected


def test_at_one_documents_of_equal_density_get_about_as_many_latents() -> None:
    policy = made(DiscreteSelector, 1.0)
    found = {tokens: policy.choose_parts([1.0], 0.0, [tokens])[0] for tokens in (64, 128, 256, 512, 1024, 4096)}
    assert found == {64: Ratio(2), 128: Ratio(2), 256: Ratio(4), 512: Ratio(8), 1024: Ratio(16), 4096: Ratio(16)}
    assert made(LengthSelector, 1.0).choose_parts([3.0], 0.0, [1024]) == [Length(16)]  # 1024 / 2^6
    assert made(ContinuousRatio, 0.5).choose_parts([2.0], 0.0, [288]) == [Ratio(6)]


def test_windows_of_a_document_count_together_also_where_few_of_them_are_known() -> None:
    policy = made(DiscreteSelector, 1.0)
    assert policy.choose_parts([1.0] * 4, 0.0, [128] * 4) == [Ratio(8)] * 4
    assert policy.choose_parts([1.0], 0.0, [128], document_tokens=512) == [Ratio(8)]


@PREDICTS
@pytest.mark.parametrize("exponent", [-0.1, 2.5, math.nan, math.inf])
def test_an_exponent_out_of_range_is_refused(kind: type[RatioPolicy], exponent: float) -> None:
    with pytest.raises(RatioError, match=r"length_exponent \S+ must be from 0 to 2; 0 to 1 is usual"):
        made(kind, exponent)


def test_a_policy_that_predicts_nothing_has_none() -> None:
    for kind in (kind for kind in POLICIES.values() if not kind.predicts):
        with pytest.raises(RatioError, match=rf"policy '{kind.name}' has none; set it to 0"):
            made(kind, 0.5)
        assert made(kind, 0.0).choose_parts([None, None], 0.0, [600, 10])[0] == kind(CANDIDATES).ordered()[0]
