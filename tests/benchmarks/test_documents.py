"""Texts have exactly the lengths that a benchmark says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@pytest.mark.parametrize("tokens", [1, 17, 48, 700, 20_000])
def test_text_has_exactly_so_many_tokens(tiny_tokenizer: PreTrainedTokenizerFast, tokens: int) -> None:
    from benchmarks.documents import text_of
    from latentpress.tokens import tokenize

    assert len(tokenize(tiny_tokenizer, text_of(tiny_tokenizer, tokens)).ids) == tokens


def test_log_uniform_lengths_are_in_bounds_and_half_lie_below_the_geometric_mean() -> None:
    from benchmarks.documents import log_uniform

    lengths = log_uniform(64, 32, 1300)
    assert len(lengths) == 64
    assert min(lengths) >= 32
    assert max(lengths) <= 1300
    assert sum(n < (32 * 1300) ** 0.5 for n in lengths) == 32
    assert lengths != sorted(lengths)


def test_equal_lengths_have_the_total_and_differ_by_one_at_most() -> None:
    from benchmarks.documents import equal_lengths

    lengths = equal_lengths(7, 100)
    assert sum(lengths) == 100
    assert max(lengths) - min(lengths) <= 1
