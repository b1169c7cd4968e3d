"""Passages to requests, each with a key of everything that its reply depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from latentpress.synthesis.settings import ABOUT_SEVERAL, TASKS, Plan, TeacherSpec

if TYPE_CHECKING:  # not needed where requests are asked, whose processes start sooner without
    from latentpress.synthesis.passages import Cutter, Passage
    from latentpress.synthesis.prompts import Prompts


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One thing that is asked of the teacher."""

    key: str
    """Digest of task, passages, texts of the prompts, model and settings: names its reply in the journal."""
    task: str
    """One of `TASKS`."""
    record: str
    """Name of the record that the reply goes into."""
    passages: tuple[Passage, ...]
    """What it is about: one passage, or several related ones of one source."""
    tokens: int
    """Tokens of its prompt, in the base model's."""


class Planner:
    """Makes the requests about passages.

    Args:
        plan: tasks and numbers.
        spec: the teacher, whose model and sampling are part of the keys.
        prompts: the texts.
        cutter: counts tokens.
    """

    def __init__(self, plan: Plan, spec: TeacherSpec, prompts: Prompts, cutter: Cutter) -> None:
        self._plan, self._spec, self._prompts, self._cutter = plan, spec, prompts, cutter
        self._overheads: dict[tuple[str, str], int] = {}

    def requests(self, passages: Sequence[Passage], groups: Sequence[tuple[Passage, ...]]) -> list[Request]:
        """All requests of the plan, one task after the other in the order of the paper's phases."""
        made = []
        for task in TASKS:
            if task in self._plan.tasks:
                about = groups if task in ABOUT_SEVERAL else [(passage,) for passage in passages]
                made += [self.request(task, one) for one in about]
        return made

    def request(self, task: str, passages: tuple[Passage, ...]) -> Request:
        """The request of a task about passages."""
        spec, plan = self._spec, self._plan
        content = {
            "task": task,
            "passages": [passage.text for passage in passages],
            "lang": passages[0].lang,
            "prompts": self._prompts.version,
            "questions": plan.questions if task not in ("summary", "short-summary") else None,
            "teacher": [spec.kind, spec.model, spec.temperature, spec.reply_tokens, spec.seed],
        }
        key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]
        tokens = sum(passage.tokens for passage in passages) + self._overhead(task, passages)
        return Request(key=key, task=task, record=record_name(passages), passages=passages, tokens=tokens)

    def text(self, request: Request) -> str:
        """What the teacher reads."""
        return self._prompts.text(request.task, request.passages, self._plan.questions)

    def _overhead(self, task: str, passages: tuple[Passage, ...]) -> int:
        """Tokens of a prompt beside its passages."""
        known = (task, self._prompts.language(passages))
        if known not in self._overheads:
            whole = self._cutter.count(self._prompts.text(task, passages, self._plan.questions))
            self._overheads[known] = max(0, whole - sum(passage.tokens for passage in passages))
        return self._overheads[known]


def record_name(passages: Sequence[Passage]) -> str:
    """Name of the record about passages: a passage's own, or one that depends on all of them."""
    if len(passages) == 1:
        return passages[0].id
    digest = hashlib.sha256("\n".join(passage.id for passage in passages).encode()).hexdigest()[:10]
    return f"{passages[0].source}-{len(passages)}-{digest}"
