"""The peak of memory is that since the mark."""

from __future__ import annotations

import sys

import pytest

_SIZE = 64 * 2**20


def test_peak_rises_by_what_was_held_for_a_moment() -> None:
    from latentpress.evaluation.memory import peak_bytes, reset_peak, resident_bytes

    reset_peak()
    before = resident_bytes()
    assert len(bytearray(_SIZE)) == _SIZE
    assert peak_bytes() >= before + 0.9 * _SIZE


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets a peak")
def test_reset_forgets_an_earlier_peak() -> None:
    from latentpress.evaluation.memory import peak_bytes, reset_peak

    assert len(bytearray(4 * _SIZE)) == 4 * _SIZE
    high = peak_bytes()
    if not reset_peak():
        pytest.skip("this system does not let a process forget its peak")
    assert peak_bytes() < high - 2 * _SIZE
