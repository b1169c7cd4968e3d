"""What a press learns from beside the targets: what a reader of the full text predicts at each of them.

A reader answers a record's questions from the record's own text, whatever else stands in the row that a press reads,
so its predictions depend on the record alone and are made once. Of each the likeliest tokens are kept, and how much is
left for all others:

    FOLDER/<reader>/told-*.safetensors     records by a digest of their tokens, ids and log-probabilities of each label
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from latentpress.backbone import Backbone
from latentpress.data.rows import Branch, Example, TokenizedRecord
from latentpress.decoder.prompt import Piece
from latentpress.errors import TrainingError
from latentpress.files import replacing
from latentpress.training.packing import pack

TOP = 16
"""Tokens kept of each prediction."""
_LEAST = 1e-6  # of what is left for all other tokens: below, both sides are rounding


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """What a reader predicts at labels."""

    ids: Tensor
    """Its likeliest tokens, `[L, K]` int64."""
    log_probabilities: Tensor
    """Theirs, `[L, K]` float32."""


def divergence(told: Told, logits: Tensor) -> Tensor:
    """KL divergence of predictions from those of a reader, nats `[L]`.

    All tokens but the reader's likeliest count as one, which never makes it larger than it is over all tokens.

    Args:
        told: what the reader predicts.
        logits: of the same labels, `[L, V]`.
    """
    mine = torch.log_softmax(logits.float(), -1).gather(1, told.ids)
    theirs = told.log_probabilities
    likely = (theirs.exp() * (theirs - mine)).sum(1)
    left = (1 - theirs.exp().sum(1)).clamp_min(_LEAST)
    mine_left = (1 - mine.exp().sum(1)).clamp_min(_LEAST)
    return likely + left * (left.log() - mine_left.log())


class Teacher:
    """A reader of the full text, and what it has predicted so far.

    Args:
        backbone: the reader, frozen.
        identity: of what its predictions depend on, hex.
        prefix: shared part of the prompt for so many documents; see `ExampleMaker.prefix`.
        share: of the loss that is the divergence from it, from 0 to 1.
        folder: where predictions are kept; None keeps them in memory.

    Raises:
        TrainingError: what is in the folder cannot be read.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        identity: str,
        prefix: Callable[[int], tuple[Piece, ...]],
        share: float,
        folder: Path | None = None,
    ) -> None:
        self.share = share
        self._backbone, self._prefix, self._identity = backbone, prefix, identity
        self._folder = None if folder is None else folder / identity[:16]
        self._made: dict[bytes, tuple[Tensor, Tensor]] = {}
        self._unsaved: list[bytes] = []
        for path in sorted(self._folder.glob("told-*.safetensors")) if self._folder else ():
            self._read(path)

    def told(self, examples: Sequence[Example]) -> tuple[Told, Tensor]:
        """What the reader predicts at the labels of rows.

        Returns:
            Its predictions, and a mask `[labels]` of the labels that they are of, in the order of rows and branches:
            those of quotes, which are drawn anew each time, are left out.
        """
        device = self._backbone.device
        parts: list[tuple[Tensor, Tensor]] = []
        mask: list[bool] = []
        for branch in (branch for example in examples for branch in example.branches):
            mask += [branch.source is not None] * branch.labels
            if branch.source is not None:
                parts.append(self._of(branch, branch.source))
        ids = torch.cat([part for part, _ in parts]) if parts else torch.empty(0, TOP)
        likely = torch.cat([part for _, part in parts]) if parts else torch.empty(0, TOP)
        return Told(ids.to(device, torch.int64), likely.to(device, torch.float32)), torch.tensor(mask, device=device)

    def save(self) -> None:
        """Writes what is not on disk yet, into a file of its own."""
        if self._folder is None or not self._unsaved:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        made = [self._made[key] for key in self._unsaved]
        tensors = {
            "records": torch.frombuffer(bytearray(b"".join(self._unsaved)), dtype=torch.uint8).view(len(made), -1),
            "labels": torch.tensor([len(ids) for ids, _ in made]),
            "ids": torch.cat([ids for ids, _ in made]),
            "log_probabilities": torch.cat([likely for _, likely in made]),
        }
        with replacing(self._folder / f"told-{secrets.token_hex(4)}.safetensors") as building:
            save_file(tensors, building)
        self._unsaved.clear()

    def _read(self, path: Path) -> None:
        try:
            there = load_file(path)
            counts = there["labels"].tolist()
            keys = there["records"]
            parts = zip(there["ids"].split(counts), there["log_probabilities"].split(counts), strict=True)
            self._made |= {bytes(key.tolist()): part for key, part in zip(keys, parts, strict=True)}
        except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
            raise TrainingError(
                f"{path} does not hold what a teacher has predicted ({str(error).splitlines()[0]}); remove it, and it "
                "is made anew"
            ) from error

    def _of(self, branch: Branch, record: TokenizedRecord) -> tuple[Tensor, Tensor]:
        """Its predictions at the labels of one branch of a record."""
        asked = record.branches()
        key = _digest(record, asked)
        if key not in self._made:
            self._made[key] = self._predicted(record, asked)
            self._unsaved.append(key)
        ids, likely = self._made[key]
        start = 0
        for one in asked:
            if one.ids == branch.ids:
                return ids[start : start + one.labels], likely[start : start + one.labels]
            start += one.labels
        raise AssertionError("a branch is none of its record's")

    @torch.no_grad()
    def _predicted(self, record: TokenizedRecord, asked: Sequence[Branch]) -> tuple[Tensor, Tensor]:
        """Predictions at all labels of a record, alone in its pass: they are the same whoever asks for them, and when.

        As they are kept, of which those that are used differ in nothing.
        """
        texts = [
            self._backbone.embed(torch.tensor(document, device=self._backbone.device)) for document in record.documents
        ]
        row = Example((), (), self._prefix(len(record.documents)), tuple(asked), ())
        embeddings, layout, at, _ = pack(self._backbone, [row], [texts])
        logits = self._backbone.logits(self._backbone(embeddings, layout)[at])
        likely, ids = torch.log_softmax(logits.float(), -1).topk(min(TOP, logits.shape[-1]), -1)
        return ids.to("cpu", torch.int32), likely.to("cpu", torch.float16)


def _digest(record: TokenizedRecord, asked: Sequence[Branch]) -> bytes:
    whole = repr((record.documents, [(branch.ids, branch.first_label) for branch in asked]))
    return hashlib.blake2b(whole.encode(), digest_size=16).digest()
