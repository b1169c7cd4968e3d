"""One process for all systems that need the same worker with the same settings: sizes and presses share a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentpress.evaluation.systems.peers.process import Fields, PeerProcess

if TYPE_CHECKING:
    from latentpress.backbone import Backbone


@dataclass(slots=True)
class _Shared:
    """A process, once someone has asked it, and how many have yet to close it."""

    leases: int = 0
    process: PeerProcess | None = None


_SHARED: dict[tuple[str, ...], _Shared] = {}


class Lease:
    """A share in a worker's process, which starts at the first request and ends when its last share is closed.

    Args:
        name: what error messages call the peer.
        python: interpreter of its environment.
        script: the worker.
        settings: for its start; plain data.
    """

    def __init__(self, name: str, python: Path, script: Path, settings: Mapping[str, Any]) -> None:
        self._about = (name, python, script, settings)
        self._key = (name, str(python), str(script), json.dumps(settings, sort_keys=True))
        self._open = True
        _SHARED.setdefault(self._key, _Shared()).leases += 1

    def ask(self, **request: Any) -> Fields:
        """Sends a request and waits for its answer; a process that has died is started again.

        Raises:
            PeerError: see `PeerProcess`.
        """
        return self._running().ask(**request)

    def give_back_freed(self) -> None:
        """See `PeerProcess.give_back_freed`."""
        self._running().give_back_freed()

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._running().pid

    @property
    def versions(self) -> dict[str, str]:
        """Of the packages that it runs on, and of its Python."""
        return self._running().versions

    def _running(self) -> PeerProcess:
        assert self._open, "asked after close"
        shared = _SHARED[self._key]
        if shared.process is None or not shared.process.alive:
            shared.process = PeerProcess(*self._about)
        return shared.process

    def close(self) -> None:
        """Gives the share back; again does nothing."""
        if not self._open:
            return
        self._open = False
        shared = _SHARED[self._key]
        shared.leases -= 1
        if shared.leases == 0:
            del _SHARED[self._key]
            if shared.process is not None:
                shared.process.close()


def model_settings(folder: Path, decoder: Backbone) -> Fields:
    """Settings of a worker that loads a model: like the decoder, in its precision, on its device, with its threads."""
    import torch

    return {
        "model": str(folder),
        "device": str(decoder.device),
        "dtype": str(decoder.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }
