"""What a selector's head predicts of passages, in a file that a run goes on with and that later analyses read.

    {"latentpress_head": 1, "press": "mine", "fingerprint": "...", "dtype": "bfloat16", "policy": "selector", ...}
    {"id": "wiki-17", "genre": "wiki", "tokens": [311], "log2_ratios": [2.41], "sha256": "..."}

`tokens` and `log2_ratios` have an entry for each part of the passage that gets a prediction, usually an encoder window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentpress.data.labels import text_digest
from latentpress.data.lines import ResumableLines, Row, Wording, parse_lines
from latentpress.errors import InputError, PressError

if TYPE_CHECKING:
    from latentpress.press import Press

NAME = "head.jsonl"
"""Of the file."""
FORMAT = "latentpress_head"
"""Key of the first line, with the version of the format."""
VERSION = 1
_REMEDY = "give another --out, or remove the file to have the passages read again"
_WORDING = Wording(kind="predictions", other="is of another passage than --data and --lang give", remedy=_REMEDY)
_BATCH = 16  # passages between two writes


@dataclass(frozen=True, kw_only=True, slots=True)
class Passage:
    """A text whose ratio is predicted."""

    id: str
    """Of its record."""
    genre: str
    """Where the record comes from."""
    text: str
    """The text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Predicted:
    """What the head predicts of a passage."""

    id: str
    """Of its record."""
    genre: str
    """Where the record comes from."""
    tokens: tuple[int, ...]
    """Of each part."""
    log2_ratios: tuple[float, ...]
    """Predicted of each part."""

    @property
    def log2_ratio(self) -> float:
        """Of the passage: the mean of its parts' by their tokens, as a press that chooses for a document takes it."""
        pairs = zip(self.log2_ratios, self.tokens, strict=True)
        return sum(value * count for value, count in pairs) / sum(self.tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """How the press behind some predictions chooses."""

    press: str
    """Its name."""
    name: str
    """Of its ratio policy."""
    candidates: tuple[int, ...]
    """Sizes that it chooses from."""
    selection: str
    """What has a size of its own: `window` or `document`."""
    length_exponent: float = 0.0
    """How much harder it compresses long documents than short ones."""


def predict(
    press: Press, passages: Sequence[Passage], out: Path, *, progress: Callable[[int], None] = lambda _: None
) -> list[Predicted]:
    """Has a press read passages of which the folder holds no prediction yet.

    Args:
        press: with a head.
        passages: in an order in which later calls may have more, but none before those of earlier calls.
        out: folder of `head.jsonl`; it exists.
        progress: told the number of passages that are done.

    Raises:
        PressError: the press has no head.
        InputError: the file holds predictions of another press or of other passages.
    """
    check_head(press)
    config = press.config
    made_by = {
        FORMAT: VERSION,
        "press": config.name,
        "fingerprint": press.fingerprint,
        "dtype": str(press.model.decoder.dtype).removeprefix("torch."),
        "policy": config.policy,
        "candidates": list(config.candidates),
        "selection": press.model.policy.selection,
        **({"length_exponent": config.length_exponent} if config.length_exponent else {}),
    }
    digests = [text_digest(one.text) for one in passages]
    file = ResumableLines(out / NAME, made_by, digests, key="sha256", wording=_WORDING)
    progress(len(file.rows))
    while missing := passages[len(file.rows) : len(file.rows) + _BATCH]:
        file.add(_read(press, missing))
        progress(len(file.rows))
    return [_predicted(row) for row in file.rows]


def check_head(press: Press) -> None:
    """Raises a PressError for a press without a head."""
    if press.model.head is None:
        raise PressError(
            f"press {press.config.name!r} has ratio policy {press.config.policy!r}, so it predicts no ratios; "
            "give a press with a selector (`latentpress info PRESS` tells its policy)"
        )


def read_predictions(place: Path) -> tuple[Policy, list[Predicted]]:
    """Reads a file of predictions, or the one in a folder; half a line at its end is passed over.

    Raises:
        InputError: it is missing, or no such file, or holds none.
    """
    path = place / NAME if place.is_dir() else place
    remedy = "let `latentpress analyze head` make it"
    try:
        whole = path.read_bytes().rpartition(b"\n")[0]
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); {remedy}") from error
    header, rows = parse_lines(path, whole, remedy) if whole else ({}, [])
    if header.get(FORMAT) != VERSION or not rows:
        raise InputError(f"{path} holds no predictions of a head; {remedy}")
    try:
        policy = Policy(
            press=str(header["press"]),
            name=str(header["policy"]),
            candidates=tuple(map(int, header["candidates"])),
            selection=str(header["selection"]),
            length_exponent=float(header.get("length_exponent", 0.0)),
        )
        return policy, [_predicted(row) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error!r}); {remedy}") from error


def _read(press: Press, passages: Sequence[Passage]) -> list[Row]:
    """Rows of some passages, which do not depend on each other."""
    import torch

    from latentpress.arguments import checked_text
    from latentpress.tokens import tokenize
    from latentpress.windows import cut, passes

    documents = [tokenize(press._encoder_tokenizer, checked_text(one.text, one.id)) for one in passages]
    windows = cut(documents, press.config.window_tokens)
    rows: list[Row] = [{"id": one.id, "genre": one.genre, "tokens": [], "log2_ratios": []} for one in passages]
    with torch.no_grad():
        for batch in passes(windows, press.model.compressor.adds):
            encoded = press.model.encode([window.ids for window in batch])
            assert encoded.log2_ratios is not None  # there is a head
            found: Iterator[float] = iter(encoded.log2_ratios.tolist())
            for window, parts in zip(batch, encoded.parts, strict=True):
                rows[window.document]["tokens"] += parts
                rows[window.document]["log2_ratios"] += [next(found) for _ in parts]
    for row in rows:
        if not all(map(math.isfinite, row["log2_ratios"])):
            raise PressError(
                f"press {press.config.name!r} predicts a ratio that is no number for record {row['id']!r}; "
                "use --dtype float32, or another press"
            )
    return rows


def _predicted(row: dict[str, Any]) -> Predicted:
    tokens, values = tuple(map(int, row["tokens"])), tuple(map(float, row["log2_ratios"]))
    if not tokens or len(tokens) != len(values):
        raise ValueError(f"record {row['id']!r} has {len(tokens)} parts and {len(values)} predictions")
    return Predicted(id=row["id"], genre=row["genre"], tokens=tokens, log2_ratios=values)
