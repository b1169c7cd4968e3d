"""Settings under which the two papers judge, so that a comparison can be made as they made theirs.

What a paper or its authors' code states is taken as it is; what neither says is our choice, listed in `Protocol.ours`.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from latentpress.errors import InputError
from latentpress.evaluation.questions import Kind
from latentpress.evaluation.sources import IN_DOMAIN, OUT_OF_DOMAIN, Source, find_sources, missing_names, on_hub

if TYPE_CHECKING:
    from latentpress.decoder.prompt import PromptSettings

__all__ = ["PROTOCOLS", "Protocol", "find_protocol"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """How systems are judged: on what, asked how, and by which measures."""

    name: str
    """What `--protocol` calls it."""
    about: str
    """One line for lists, with the source."""
    sets: tuple[str, ...] = ()
    """Names of its data sets, in the order of its tables; empty: whatever is given."""
    prompt: Mapping[str, str] | None = None
    """Fields of the `PromptSettings` of readers of text that were not trained; None: the press's own prompt."""
    prompt_kinds: tuple[Kind, ...] = ("span", "choice", "summary")
    """Kinds of questions for which `prompt` is meant; where others are asked too, the press's own prompt holds."""
    min_tokens: int = 0
    """Context tokens below which a question is left out."""
    max_tokens: int | None = None
    """Context tokens above which a question is left out; None for no limit."""
    limit: int | None = None
    """Questions drawn of each set; None for all."""
    max_new_tokens: int = 24
    """Tokens of a short answer or a choice."""
    summary_tokens: int = 128
    """Tokens of an answer that is judged as a summary."""
    metrics: tuple[str, ...] = ("f1", "exact_match")
    """Functions of `latentpress.evaluation.metrics` for short answers, the headline first."""
    correct_only: bool = False
    """The headline ratio is over correctly answered questions; otherwise over all. Reports give both."""
    ours: tuple[str, ...] = ()
    """What we chose, because the paper does not say or because its own way cannot be had."""

    def find_sets(self, data_dir: str | Path | None = None) -> list[Source]:
        """Finds its data sets, each in the folder or else on the hub.

        Raises:
            InputError: some are in neither, the folder does not exist, or several of its files may be meant.
        """
        missing = missing_names(self.sets, data_dir=data_dir)
        if missing:
            first, listed = missing[0], ", ".join(missing)
            where = "without --data-dir there is no" if data_dir is None else f"the folder {data_dir} has no"
            hub = [name for name in missing if on_hub(name)]
            or_hub = f"; pip install 'latentpress[hub]' reads {', '.join(hub)} from the hub" if hub else ""
            raise InputError(
                f"protocol {self.name!r} asks for the data sets {', '.join(self.sets)}, and {where} {listed}; give "
                f"--data-dir FOLDER with files of these names (such as {first}.jsonl.gz), or choose sets of your own: "
                f"--data FILE{or_hub}"
            )
        return find_sources(self.sets, data_dir=data_dir)

    def answer_tokens(self, kind: Kind) -> int:
        """Longest answer to a question of a kind, in tokens."""
        return self.summary_tokens if kind == "summary" else self.max_new_tokens

    def reader_prompt(self, own: PromptSettings, kinds: Collection[Kind]) -> PromptSettings:
        """Texts around the context for readers of text that were not trained.

        Args:
            own: of the press under test, where the protocol has none for these questions.
            kinds: of the questions that will be asked.
        """
        from latentpress.decoder.prompt import PromptSettings

        suits = set(kinds) <= set(self.prompt_kinds)
        return PromptSettings(**self.prompt) if self.prompt is not None and suits else own


_DEFAULT = Protocol(
    name="default",
    about="Given sets, 500 questions each, short answers by SQuAD's F1 and exact match, each press's own prompt.",
    # The best of six on 103 questions of held-back training data: F1 17.4, with a press's prompt 13.5.
    prompt={
        "system": (
            "You answer questions about a text. Reply with the shortest exact phrase from the text, nothing else."
        ),
        "context": "Text: ",
    },
    prompt_kinds=("span",),
    limit=500,
    ours=(
        "everything: it follows no paper",
        "the base model that reads text as it is is asked for the shortest exact phrase, if all answers are spans",
    ),
)
_SEMIDYNAMIC = Protocol(
    name="semidynamic",
    about="Semi-dynamic context compression (arXiv 2603.25926): contexts under 2,048 tokens, substring accuracy.",
    sets=("HotpotQA", "SQuAD", "NQ", "AdversarialQA"),
    prompt={"system": "", "context": "Context: ", "question": "\n\nQuestion: {question}"},
    max_tokens=2047,
    limit=1000,
    max_new_tokens=64,
    metrics=("substring_accuracy", "f1", "exact_match"),
    correct_only=True,
    ours=(
        "64 new tokens, no shots and no system message: not stated",
        "the same prompt for readers of text as for latents: not stated",
        "tokens are those of the base model under test",
        "which 1,000 questions: not stated",
        "HotpotQA, SQuAD and NQ are MRQA's files where no others are given",
        "F1 and exact match beside the paper's measure",
    ),
)
_COMPREXIT = Protocol(
    name="comprexit",
    about="ComprExIT (arXiv 2602.03784): MRQA's twelve sets, 20 new tokens, exact match and F1.",
    sets=(*IN_DOMAIN, *OUT_OF_DOMAIN),
    prompt={
        "system": "",
        "context": "",
        "question": (
            "\n\nQuestion: {question}Answer the question directly with a short span only, no explanation. Answer:"
        ),
    },
    max_new_tokens=20,
    metrics=("exact_match", "f1"),
    ours=(
        "a blank line between text and question, where the paper has latents and nothing between",
        "no system message, in the base model's chat template: the paper's decoder reads no template",
        "no shots and no limit to the context's length: not stated",
        "all questions of each set, in its development part: not stated",
    ),
)
PROTOCOLS: Mapping[str, Protocol] = {one.name: one for one in (_DEFAULT, _SEMIDYNAMIC, _COMPREXIT)}
"""Every protocol by name."""


def find_protocol(name: str) -> Protocol:
    """Finds a protocol by name, case aside.

    Raises:
        InputError: there is none of that name.
    """
    found = PROTOCOLS.get(name.casefold())
    if found is None:
        nearest = difflib.get_close_matches(name.casefold(), PROTOCOLS, n=1)
        meant = f" (did you mean {nearest[0]}?)" if nearest else ""
        raise InputError(f"protocol {name!r} is unknown{meant}; give one of {', '.join(PROTOCOLS)}")
    return found
