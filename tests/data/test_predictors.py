"""What predicts density without a network."""

from __future__ import annotations

import math
import zlib

import pytest

from latentpress.data.predictors import length, zlib_ratio


def test_predictors_are_logarithms_of_size_and_of_what_zlib_saves() -> None:
    assert [length(size) for size in (1, 2, 512)] == [0, 1, 9]
    text = "字a" * 50
    assert zlib_ratio(text) == pytest.approx(math.log2(200 / len(zlib.compress(text.encode(), 9))))
    assert zlib_ratio("the fox " * 40) > zlib_ratio("the quick brown fox jumps over the lazy dog") + 2
