"""The worker's side of a peer's process: JSON lines in, JSON lines out. Needs the standard library alone.

A worker runs in the environment of its peer and imports nothing of latentpress. It is a script that ends with
`serve(PACKAGES, start)`.

    in   {"id": 0, "settings": {...}}          out  {"id": 0, "versions": {"python": "3.11.7", "kvpress": "0.5.5"}}
    in   {"id": 1, "text": "...", ...}         out  {"id": 1, "kept": "...", ...}
    in   {"id": 2, "text": "...", ...}         out  {"id": 2, "error": "ValueError: ..."}
    in   {"id": 3, "give_back_freed": true}    out  {"id": 3}

The end of its input ends the worker.
"""

import ctypes
import gc
import json
import os
import platform
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

Fields = dict[str, Any]


def serve(packages: Sequence[str], start: Callable[[Fields], Callable[[Fields], Fields]]) -> None:
    """Answers requests until the input ends.

    Args:
        packages: those whose versions the first answer names.
        start: imports the peer and loads its model; given the settings, it returns what answers a request. An
            exception of the latter is an answer too, one of the former ends the worker.
    """
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8", newline="\n")
    # Whatever else is printed, by C code too, goes where it disturbs nobody.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()

    def send(fields: Fields) -> None:
        # The line break before it ends what someone may have printed without one before this process began.
        out.write("\n" + json.dumps(fields) + "\n")
        out.flush()

    first = json.loads(lines.get())
    answer = start(first["settings"])
    versions = {name: metadata.version(name) for name in packages}
    send({"id": first["id"], "versions": {"python": platform.python_version(), **versions}})
    while True:
        request = json.loads(lines.get())
        number = request.pop("id")
        if request.pop("give_back_freed", False):
            _give_back_freed()
            send({"id": number})
            continue
        try:
            send({"id": number, **answer(request)})
        except Exception as error:  # noqa: BLE001 - the peer may raise anything, and the next request may be fine
            traceback.print_exc()
            send({"id": number, "error": f"{type(error).__name__}: {error}"})


def _give_back_freed() -> None:
    """Gives memory that is free here back to the system, where it can (glibc): a peak is measured next."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _read(lines: queue.SimpleQueue[str]) -> None:
    """Reads what comes in; its end, by a parent that has died too, ends this process at once, whatever it does."""
    with os.fdopen(os.dup(sys.stdin.fileno()), encoding="utf-8", newline="\n") as stream:
        for line in stream:
            lines.put(line)
    os._exit(0)
