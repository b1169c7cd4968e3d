"""The contract of a teacher, and teachers by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from latentpress.synthesis.settings import TeacherSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What a teacher answered."""

    text: str
    """Its words, unchecked."""
    prompt_tokens: int | None
    """Tokens of the prompt as the teacher counts; None: it does not say."""
    reply_tokens: int | None
    """Tokens of the reply; None: it does not say."""
    cut_off: bool
    """Whether it ended because it had become too long."""
    refused: tuple[str, ...] = ()
    """Parameters that the teacher takes no requests with: sent under another name, or not at all."""


class Fault(Exception):  # noqa: N818 - it is the teacher's, and never leaves the package
    """Why a try brought no reply.

    Args:
        message: what happened and what can be done.
        again: whether another try may bring one.
        wait: seconds that the teacher asks to wait first.
        final: no request can bring one.
        at_once: another try needs no wait and is none of those that patience grants: the request goes out otherwise.
        wrote: tokens that the teacher may have written for nothing, having read the prompt; None: it did neither.
    """

    def __init__(
        self,
        message: str,
        *,
        again: bool = False,
        wait: float | None = None,
        final: bool = False,
        at_once: bool = False,
        wrote: int | None = None,
    ) -> None:
        super().__init__(message)
        self.again, self.wait, self.final = (again or at_once) and not final, wait, final
        self.at_once, self.wrote = at_once, wrote


class Teacher(ABC):
    """Whoever answers requests. Used as `async with`, one event loop after the other if need be."""

    @abstractmethod
    async def reply(self, text: str) -> Reply:
        """Answers one request; several may be under way at once.

        Raises:
            Fault: there is no reply.
        """

    async def __aenter__(self) -> Teacher:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Ends connections, or a batch that nobody waits for any more."""
        return


def open_teacher(spec: TeacherSpec) -> Teacher:
    """Makes the teacher of a description; a local one is loaded.

    Raises:
        InputError: an address that is none, a file or folder that is no model, or a package that is missing.
        BaseModelError: a local model that cannot be had.
    """
    if spec.kind == "openai":
        from latentpress.synthesis.endpoint import Endpoint

        return Endpoint(spec)
    from latentpress.synthesis.local import LocalModel

    return LocalModel(spec)


def check_teacher(spec: TeacherSpec, *, elsewhere: bool = False) -> None:
    """Finds what can be wrong with a teacher before it is needed.

    Args:
        spec: the teacher; a local model is looked for, or downloaded, and not loaded.
        elsewhere: it is asked by other machines, whose models and GPUs are not looked at.

    Raises:
        InputError: as `open_teacher`.
        BaseModelError: likewise.
    """
    if spec.kind == "openai":
        from latentpress.synthesis.endpoint import Endpoint

        Endpoint(spec)
    elif not elsewhere:
        from latentpress.synthesis.local import check_model

        check_model(spec)
