"""Peak memory of this process, or of another of this user's."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from pathlib import Path


def reset_peak(process: str = "self") -> bool:
    """Starts a new high-water mark of resident memory.

    Args:
        process: number of another process.

    Returns:
        Whether the system could; where it cannot (anything but Linux), `peak_bytes` is of the whole life of the
        process, so measure from the smallest to the largest.
    """
    try:
        Path(f"/proc/{process}/clear_refs").write_text("5")  # man 5 proc: resets VmHWM
    except OSError:
        return False
    return True


def give_back_freed() -> None:
    """Gives memory that is free in this process back to the system, where it can (glibc).

    Otherwise what an allocator has kept serves what comes next, and a peak does not rise by it.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def peak_bytes(process: str = "self") -> int:
    """Highest resident memory since the mark, bytes; of another process only where `reset_peak` could."""
    return _status("VmHWM", process) or _life_peak()


def resident_bytes(process: str = "self") -> int:
    """Resident memory now, bytes; the peak where the system does not say."""
    return _status("VmRSS", process) or _life_peak()


def _status(field: str, process: str) -> int | None:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)


def _life_peak() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
