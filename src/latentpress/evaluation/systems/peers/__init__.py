"""Peers: other people's compressors, each from its own package and, where it needs one, in its own environment.

    kvpress.py, llmlingua.py    the systems
    environments.py             which Python has the package, and how to make one that has
    process.py, sharing.py      the process in which it runs
    workers/                    what runs there; imports the peer's packages and nothing of latentpress

A new peer is one file like `llmlingua.py`, its worker, and its lines in the tables here and in `environments.py`.
"""

from latentpress.evaluation.systems.base import Family
from latentpress.evaluation.systems.peers.kvpress import KVPRESS
from latentpress.evaluation.systems.peers.llmlingua import LLMLINGUA

__all__ = ["PEERS"]

PEERS: dict[str, Family] = {**LLMLINGUA, **KVPRESS}
