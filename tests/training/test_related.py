"""Texts are ranked by the rare tokens that they share."""

from __future__ import annotations

import itertools
import math
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from latentpress.training.related import RelatedTexts


def likeness(texts: list[list[int]], one: int, other: int) -> float:
    """TF-IDF cosine of two texts by the definition, tokens counted once."""

    def weights(index: int) -> dict[int, float]:
        return {
            token: math.log(len(texts) / sum(token in text for text in texts)) for token in sorted(set(texts[index]))
        }

    first, second = weights(one), weights(other)
    norms = [math.sqrt(sum(weight**2 for weight in side.values())) for side in (first, second)]
    shared = sum(weight * second[token] for token, weight in first.items() if token in second)
    return shared / (norms[0] * norms[1]) if all(norms) else 0.0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 20), max_size=8), min_size=1, max_size=12))
def test_the_order_is_that_of_the_cosine(texts: list[list[int]]) -> None:
    related = RelatedTexts([(text,) for text in texts])
    for index in range(len(texts)):
        ranked = related.ranked(index)
        assert sorted(ranked) == list(range(len(texts)))
        found = [likeness(texts, index, other) for other in ranked]
        assert all(a >= b - 1e-9 for a, b in itertools.pairwise(found))


def test_a_text_of_its_kind_comes_before_one_of_like_length() -> None:
    draw = random.Random(0)
    common = list(range(50))
    texts = [(draw.sample(common, 30), [100 + kind, 200 + kind]) for kind in range(8) for _ in range(4)]
    related = RelatedTexts(texts)
    for index in range(len(texts)):
        assert {other // 4 for other in related.ranked(index)[:4]} == {index // 4}


def test_alike_texts_keep_their_order_and_empty_ones_are_like_none() -> None:
    assert RelatedTexts([([1, 2],), ([3],), ([3],), ()]).ranked(0) == [0, 1, 2, 3]
    assert RelatedTexts([(), ()]).ranked(1) == [0, 1]
