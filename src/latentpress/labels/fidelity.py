"""Labels from a press itself: the largest ratio at which answers from the latents stay what they were. No teacher.

Each record's answers are read from latents at every candidate ratio, teacher-forced; the label is where their loss
leaves that of the lowest ratio behind by more than a tolerance. It is what a selector should predict, for this press.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from latentpress.compressors.base import Ratio
from latentpress.data.lines import Row
from latentpress.data.rows import QUOTE_CUE, Example, ExampleMaker
from latentpress.errors import InputError, PressError
from latentpress.labels.base import Finished, Item, LabelSource
from latentpress.model import PressModel
from latentpress.training.objective import by_document, target_losses

if TYPE_CHECKING:
    from latentpress.press import Press

TOLERANCE = 0.2
"""Nats a token: the right token keeps at least 82% (e^-0.2) of the chance it had, in the geometric mean."""


class FidelityLabels(LabelSource):
    """See the module.

    Args:
        press: whose latents are read, and by whom.
        tolerance: most nats a token by which the loss may exceed that at the lowest ratio.

    Raises:
        InputError: a tolerance that is negative or no number.
        PressError: a press that has no several ratios to compare, or whose encoder has a tokenizer of its own.
    """

    name: ClassVar[str] = "fidelity"

    def __init__(self, press: Press, *, tolerance: float = TOLERANCE) -> None:
        super().__init__(press.base.tokenizer)
        if not 0 <= tolerance < math.inf:
            raise InputError(
                f"tolerance {tolerance:g} must be a finite number of nats a token, 0 or more; 0.2 is usual"
            )
        _check_press(press)
        self.press, self.tolerance = press, tolerance
        self.ratios = press.config.candidates
        self.maker = ExampleMaker(press.base.tokenizer, press.config.prompt, press.config.window_tokens)

    @property
    def made_by(self) -> dict[str, Any]:
        """See `LabelSource.made_by`."""
        dtype = str(self.press.model.decoder.dtype).removeprefix("torch.")
        press = {"name": self.press.config.name, "fingerprint": self.press.fingerprint, "dtype": dtype}
        return {"press": press, "ratios": list(self.ratios)}

    @property
    def settings(self) -> dict[str, Any]:
        """See `LabelSource.settings`."""
        return {"tolerance": self.tolerance}

    def check(self, item: Item) -> Item | str:
        """See `LabelSource.check`."""
        window = self.press.config.window_tokens
        if not item.record.qas:
            return "without questions and answers"
        if len(item.ids) > window:
            return f"longer than a window of {window} tokens, each of which has a ratio of its own"
        example = self._example(item)
        latents = self.press.model.compressor.count(len(item.ids), Ratio(self.ratios[0]))
        shared = sum(len(piece) for piece in example.prefix if isinstance(piece, list))
        most = shared + self.press.config.prompt_vectors + latents + max(len(one.ids) for one in example.branches)
        if most > self.press.base.max_positions:
            return f"whose questions exceed the decoder's {self.press.base.max_positions} positions"
        return item

    def measure(self, items: Sequence[Item]) -> list[Row]:
        """See `LabelSource.measure`.

        Raises:
            PressError: a loss is not finite.
        """
        losses = answer_losses(self.press.model, [self._example(item) for item in items], self.ratios)
        for item, own in zip(items, losses, strict=True):
            for ratio, loss in own.items():
                if not math.isfinite(loss):
                    raise PressError(
                        f"press {self.press.config.name!r}: the loss of record {item.record.id!r} is {loss} at ratio "
                        f"{ratio}; use --dtype float32, or another press"
                    )
        return [
            {"losses": {str(ratio): loss for ratio, loss in own.items()}, "questions": len(item.record.qas)}
            for item, own in zip(items, losses, strict=True)
        ]

    def is_of(self, row: Row, item: Item) -> bool:
        """See `LabelSource.is_of`: there are as many questions."""
        return bool(row.get("questions") == len(item.record.qas))

    def finish(self, rows: Sequence[Row]) -> Finished:
        """See `LabelSource.finish`."""
        measured = ({int(ratio): loss for ratio, loss in row["losses"].items()} for row in rows)
        return Finished(log2_ratios=tuple(largest_log2_ratio(losses, self.tolerance) for losses in measured))

    def _example(self, item: Item) -> Example:
        """All questions about a text, and nothing else, as branches of one row."""
        made = dataclasses.replace(self.maker.tokenize(item.record), summary=None)
        return self.maker.example(
            [made], random.Random(0), questions=len(made.answers), quotes=0, quote_tokens=QUOTE_CUE + 1
        )


def _check_press(press: Press) -> None:
    config = press.config
    if press.model.policy.kind is not Ratio or len(config.candidates) < 2:
        sizes = f"{press.model.policy.word()}s {', '.join(map(str, config.candidates))}"
        raise PressError(
            f"press {config.name!r} was trained for the {sizes} by policy {config.policy!r}, and fidelity compares "
            "several ratios; give a press with at least two"
        )
    if config.encoder_base is not None:
        raise PressError(
            f"press {config.name!r} has an encoder of another base model, {config.encoder_base.id!r}, and rows with "
            "answers are made for one; give a press whose encoder and decoder share theirs"
        )


def largest_log2_ratio(losses: Mapping[int, float], tolerance: float) -> float:
    """log2 of the largest ratio up to which the loss stays within a tolerance of that at the lowest ratio.

    It is the first crossing, whatever comes behind it, on the line between the last ratio within and the first beyond,
    by log2 of the ratio: labels are no steps. The largest ratio's where none is beyond.

    Args:
        losses: by ratio.
        tolerance: in their unit, 0 or more.
    """
    ratios = sorted(losses)
    limit = losses[ratios[0]] + tolerance
    for within, beyond in itertools.pairwise(ratios):
        if losses[beyond] > limit:
            share = (limit - losses[within]) / (losses[beyond] - losses[within])
            return math.log2(within) + share * (math.log2(beyond) - math.log2(within))
    return math.log2(ratios[-1])


@torch.no_grad()
def answer_losses(model: PressModel, examples: Sequence[Example], ratios: Sequence[int]) -> list[dict[int, float]]:
    """Mean loss of each row's targets at several ratios, in nats a token: over a target's tokens, then over targets.

    Texts are encoded once, and every ratio's latents are made of the same states.

    Args:
        model: the press.
        examples: rows; each has at least one branch.
        ratios: of every window.
    """
    encoded = model.encode([window for example in examples for window in example.windows])
    sizes = [branch.labels for example in examples for branch in example.branches]
    found: list[dict[int, float]] = [{} for _ in examples]
    for ratio in ratios:
        latents = by_document(examples, model.latents(encoded, Ratio(ratio)))
        losses = target_losses(model.decoder, examples, latents)[0].double().cpu()
        means = torch.stack([one.mean() for one in losses.split(sizes)])
        for own, part in zip(found, means.split([len(example.branches) for example in examples]), strict=True):
            own[ratio] = float(part.mean())
    return found
