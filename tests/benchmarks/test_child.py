"""A measurement in a process of its own gives back what it returns, or fails loudly."""

from __future__ import annotations

import pytest


def test_result_comes_back() -> None:
    from benchmarks import child

    assert child.call("statistics:mean", data=[1, 2, 6]) == 3


def test_failure_is_an_error() -> None:
    from benchmarks import child

    with pytest.raises(RuntimeError, match="statistics:mean in a process of its own ended with 1"):
        child.call("statistics:mean", data=[])
