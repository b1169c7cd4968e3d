"""A peer in a process of its own, which may run another Python with other packages: JSON lines over its pipes.

The other side is `workers/peer_protocol.py`, which also draws the lines.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from latentpress.errors import PeerError, PeerGoneError

Fields = dict[str, Any]
START_SECONDS = 600.0
"""Most seconds until a worker has loaded its packages and its model."""
ANSWER_SECONDS = 1800.0
"""Most seconds for one request."""
_TAIL_LINES = 5
_CLOSE_SECONDS = 5.0
_ENVIRONMENT = {
    "PYTHONUTF8": "1",
    "PYTHONUNBUFFERED": "1",
    "HF_HUB_OFFLINE": "1",  # models are folders
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}
_OF_THIS_PYTHON = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")


class PeerProcess:
    """A running worker; a context manager that ends it.

    Args:
        name: what error messages call the peer.
        python: interpreter of its environment.
        script: the worker.
        settings: for its start; plain data.
        start_seconds: most seconds until it is ready.
        answer_seconds: most seconds for a request.

    Raises:
        PeerGoneError: it does not start.
    """

    def __init__(
        self,
        name: str,
        python: Path,
        script: Path,
        settings: Mapping[str, Any],
        *,
        start_seconds: float = START_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self.name = name
        self._answer_seconds = answer_seconds
        self._tail: collections.deque[str] = collections.deque(maxlen=_TAIL_LINES)
        self._answers: queue.Queue[Fields | None] = queue.Queue()
        try:
            self._process = subprocess.Popen(
                [str(python), str(script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=_environment(python),
                text=True,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,  # Ctrl-C is ours to handle
            )
        except OSError as error:
            raise PeerGoneError(
                f"the peer {name} cannot be started: {python} does not run ({error}); name another interpreter"
            ) from error
        log = threading.Thread(target=_read_log, args=(self._process.stderr, self._tail), daemon=True)
        answers = threading.Thread(
            target=_read_answers, args=(self._process.stdout, self._tail, self._answers), daemon=True
        )
        self._threads = (log, answers)
        for thread in self._threads:
            thread.start()
        self._end = weakref.finalize(self, _end, self._process, self._threads)
        self._number = -1
        self.versions: dict[str, str] = self._exchange({"settings": dict(settings)}, start_seconds)["versions"]

    def ask(self, **request: Any) -> Fields:
        """Sends a request and waits for its answer.

        Args:
            request: plain data.

        Raises:
            PeerGoneError: the worker dies or takes too long, which ends it.
            PeerError: it says that it cannot answer.
        """
        return self._exchange(request, self._answer_seconds)

    def give_back_freed(self) -> None:
        """Has the worker give freed memory back to the system, so that its next peak is that of what it does next.

        Raises:
            PeerGoneError: see `ask`.
        """
        self._exchange({"give_back_freed": True}, self._answer_seconds)

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._end.alive

    def close(self) -> None:
        """Ends the process; again does nothing."""
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def _exchange(self, request: Fields, seconds: float) -> Fields:
        if not self.alive:
            raise PeerGoneError(f"the process of the peer {self.name} has been ended; start it again")
        self._number += 1
        assert self._process.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # it has died: its end is told below
                self._process.stdin.write(json.dumps({"id": self._number, **request}) + "\n")
                self._process.stdin.flush()
            answer = self._wait(seconds)
        except BaseException:  # also Ctrl-C: whatever the worker says now answers nobody
            self._process.terminate()
            self.close()
            raise
        if "error" in answer:
            raise PeerError(f"the peer {self.name} cannot answer: {answer['error']}")
        return answer

    def _wait(self, seconds: float) -> Fields:
        """The answer to the last request; lines that answer none are the worker's chatter."""
        until = time.monotonic() + seconds
        while True:
            try:
                answer = self._answers.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                raise PeerGoneError(
                    f"the peer {self.name} has not answered for {seconds:g} seconds and was ended{self._last_words()}; "
                    "give it shorter texts, or the machine more time"
                ) from None
            if answer is None:
                raise PeerGoneError(f"the process of the peer {self.name} {self._how_it_ended()}{self._last_words()}")
            if answer.get("id") == self._number:
                return answer

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(_CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            return "closed its output"
        return f"ended with code {code}" if code >= 0 else f"was ended by signal {-code}"

    def _last_words(self) -> str:
        """The end of what the worker has written to its stderr."""
        self._threads[0].join(0.2)
        said = " | ".join(self._tail)
        return f"; it last wrote: {said}" if said else ""


def _environment(python: Path) -> dict[str, str]:
    """Environment variables of a worker: those that belong to this Python are no concern of another."""
    foreign = () if str(python) == sys.executable else _OF_THIS_PYTHON
    return {**{key: value for key, value in os.environ.items() if key not in foreign}, **_ENVIRONMENT}


def _read_answers(stream: IO[str], tail: collections.deque[str], answers: queue.Queue[Fields | None]) -> None:
    """Hands on the lines that are answers; None at the end. What else is written goes to the tail."""
    for line in stream:
        try:
            fields = json.loads(line)
        except ValueError:
            fields = None
        if isinstance(fields, dict) and "id" in fields:
            answers.put(fields)
        elif line.strip():
            tail.append(line.strip())
    answers.put(None)


def _read_log(stream: IO[str], tail: collections.deque[str]) -> None:
    tail.extend(line.strip() for line in stream if line.strip())


def _end(process: subprocess.Popen[str], threads: Sequence[threading.Thread]) -> None:
    """Ends a process: by the end of its input, else by signals."""
    with contextlib.suppress(OSError):
        assert process.stdin is not None
        process.stdin.close()
    for insist in (process.terminate, process.kill):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_CLOSE_SECONDS)
            break
        insist()
    process.wait()
    for thread in threads:
        thread.join(_CLOSE_SECONDS)
    for stream in (process.stdout, process.stderr):
        assert stream is not None
        stream.close()
