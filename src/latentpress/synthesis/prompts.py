"""The texts of the requests, from prompts.toml: our own, in English and Chinese."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING

from latentpress.synthesis.likeness import asked_in

if TYPE_CHECKING:
    from latentpress.synthesis.passages import Passage

_RESOURCE = "prompts.toml"


class Prompts:
    """Texts of requests in both languages, and the digest by which replies to them are told from others."""

    def __init__(self) -> None:
        content = files("latentpress.synthesis").joinpath(_RESOURCE).read_bytes()
        self._texts: dict[str, dict[str, str]] = tomllib.loads(content.decode())
        self.version = hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest()[:12]

    def text(self, task: str, passages: Sequence[Passage], questions: int) -> str:
        """The whole text of a request.

        Args:
            task: one of `TASKS`.
            passages: what it is about; numbered if there are several.
            questions: how many are wanted, where questions are.
        """
        texts = self._texts[self.language(passages)]
        shown = [
            texts["numbered" if len(passages) > 1 else "passage"]
            .replace("{number}", str(number))
            .replace("{text}", passage.text)
            for number, passage in enumerate(passages, 1)
        ]
        request = texts[task].replace("{count}", str(questions)).replace("{documents}", str(len(passages)))
        # Last, so that braces in a passage stay as they are.
        return request.replace("{passages}", "".join(shown)).strip()

    @staticmethod
    def language(passages: Sequence[Passage]) -> str:
        """Language of a request about passages: Chinese for Chinese ones.

        All others are asked about in English, with the advice to write in the passage's language.
        """
        return asked_in("\n".join(passage.text for passage in passages), passages[0].lang)
