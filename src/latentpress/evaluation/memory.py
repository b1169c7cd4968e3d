"""Peak memory of this process."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


def reset_peak() -> bool:
    """Starts a new high-water mark of resident memory.

    Returns:
        Whether the system could; where it cannot (anything but Linux), `peak_bytes` is of the whole life of the
        process, so measure from the smallest to the largest.
    """
    try:
        _CLEAR.write_text("5")  # man 5 proc: resets VmHWM
    except OSError:
        return False
    return True


def peak_bytes() -> int:
    """Highest resident memory since the mark, bytes."""
    return _status("VmHWM") or _life_peak()


def resident_bytes() -> int:
    """Resident memory now, bytes; the peak where the system does not say."""
    return _status("VmRSS") or _life_peak()


def _status(field: str) -> int | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)


def _life_peak() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
