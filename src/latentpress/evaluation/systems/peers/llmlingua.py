"""LLMLingua and LongLLMLingua: drop tokens of the text that a small language model finds likely (package `llmlingua`).

arXiv 2310.05736 and 2310.06839, in version 0.2.2 of their authors' package. The small model is the base model of the
comparison, so that the peer has as much to judge tokens with as the presses have.

The package aims at a number of tokens and misses it, mostly below: in texts of several segments it compares the tokens
of later segments with those it has kept of earlier ones. Here it is asked again for more, or less, until what it keeps
is close to the budget, and what is above is cut off: it reads as many tokens as every other system.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentpress.evaluation.questions import Question
from latentpress.evaluation.systems.base import Family, Setup, Size, System, SystemKind
from latentpress.evaluation.systems.bounds import CutSystem
from latentpress.evaluation.systems.cutters import everything, head
from latentpress.evaluation.systems.peers.environments import PACKAGES, Interpreter, find
from latentpress.evaluation.systems.peers.sharing import Lease

if TYPE_CHECKING:
    from latentpress.evaluation.systems.readers import TextReader

_PACKAGE = PACKAGES["llmlingua"]
_WORKER = Path(__file__).parent / "workers" / "llmlingua_worker.py"
_TRIES = 4
_CLOSE = 0.95  # of the budget
# What the package's README gives for each; a single document is never dropped or moved.
_BLIND: dict[str, Any] = {"rank_method": "llmlingua"}
_QUESTION: dict[str, Any] = {
    "rank_method": "longllmlingua",
    "condition_in_question": "after_condition",
    "reorder_context": "sort",
    "dynamic_context_compression_ratio": 0.3,
    "condition_compare": True,
    "context_budget": "+100",
}

Compress = Callable[[float], str]
"""What the peer keeps of a text when it is asked for so many tokens."""
