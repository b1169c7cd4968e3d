"""The peak of memory is that since the mark."""

from __future__ import annotations

import platform
import subprocess
import sys
import textwrap

import pytest

_SIZE = 64 * 2**20


def alone(body: str) -> str:
    """What a process of its own prints: this one may keep freed memory, as trainings do, and its peak not rise."""
    names = "give_back_freed, peak_bytes, reset_peak, resident_bytes"
    code = f"from latentpress.evaluation.memory import {names}\n{textwrap.dedent(body)}"
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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked to give memory back")
@pytest.mark.parametrize("asked", [False, True])
def test_what_the_allocator_has_kept_hides_no_peak_once_it_is_given_back(asked: bool) -> None:
    # Small pieces, the last of which holds the heap's end in place: free memory below it stays with the process.
    risen = alone(f"""
        pieces = [bytearray(65536) for _ in range({2 * _SIZE} // 65536)]
        del pieces[:-1]
        give_back_freed() if {asked} else None
        before = resident_bytes()
        print("" if not reset_peak() else len([bytearray(65536) for _ in range({_SIZE} // 65536)]) * 0
              + peak_bytes() - before)
    """)
    if not risen:
        pytest.skip("this system does not let a process forget its peak")
    assert (int(risen) >= 0.9 * _SIZE) == asked
