"""The peak of memory is that since the mark."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

_SIZE = 64 * 2**20


def alone(body: str) -> str:
    """What a process of its own prints: this one may keep freed memory, as trainings do, and its peak not rise."""
    code = f"from latentpress.evaluation.memory import peak_bytes, reset_peak, resident_bytes\n{textwrap.dedent(body)}"
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_peak_rises_by_what_was_held_for_a_moment() -> None:
    risen = alone(f"""
        reset_peak()
        before = resident_bytes()
        assert len(bytearray({_SIZE})) == {_SIZE}
        print(peak_bytes() - before)
    """)
    assert int(risen) >= 0.9 * _SIZE


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets a peak")
def test_reset_forgets_an_earlier_peak() -> None:
    fallen = alone(f"""
        assert len(bytearray({4 * _SIZE})) == {4 * _SIZE}
        high = peak_bytes()
        print(high - peak_bytes() if reset_peak() else "")
    """)
    if not fallen:
        pytest.skip("this system does not let a process forget its peak")
    assert int(fallen) > 2 * _SIZE
