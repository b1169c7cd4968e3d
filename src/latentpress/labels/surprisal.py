"""Labels from the base model's own surprisals: a text that the model foresees needs few latents. No teacher.

A latent that stands for S tokens must carry what the decoder cannot foresee of them: S times `b` bits, `b` being the
text's mean surprisal a token. If a latent can carry `c` bits, `S = c / b`, and `log2 S = log2 c - log2 b`. Texts differ
less in surprisal than in what a press makes of them, so the line is left free: `log2 S = offset - slope * log2 b`, with
the usual `offset` and `slope` (`STATISTICS`), or such that labels have mean and spread of others (`--calibrate`).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from latentpress.attention import Layout
from latentpress.backbone import Backbone, Base
from latentpress.data.labels import LabelFile
from latentpress.data.lines import Row
from latentpress.errors import BaseModelError, InputError
from latentpress.labels.base import Finished, Item, LabelSource
from latentpress.tokens import equal_windows
from latentpress.windows import Window, passes

MOST = 5.0
"""Largest label, log2 of 32; the smallest is 0."""
SURPRISING = 4.0
"""Bits from which on a token counts as surprising: the model gave it at most one chance in sixteen."""
_LEAST = 1e-3  # of a statistic: a text that is foreseen entirely has the largest label, not an infinite one
_LOGIT_ROWS = 256  # states whose logits are held at once: 50 MB with a vocabulary of 49,152
_FEWEST = 10  # texts in common that mean and spread are taken from


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """From a statistic to a label: `offset - slope * log2(statistic)`, between 0 and `MOST`."""

    offset: float
    """Label of a statistic of 1; of bits a token and with a slope of 1: log2 of the bits that a latent carries."""
    slope: float
    """How much the label falls where the statistic doubles."""

    def label(self, statistic: float) -> float:
        """The label."""
        value = self.offset - self.slope * math.log2(max(statistic, _LEAST))
        return min(MOST, max(0.0, value))


STATISTICS: dict[str, tuple[str, Line]] = {
    "token": ("bits_per_token", Line(offset=6.5, slope=2.0)),
    "character": ("bits_per_character", Line(offset=2.4, slope=1.0)),
    "surprising": ("surprising_share", Line(offset=-0.25, slope=2.0)),
}
"""By its name as an option: the key of a statistic in the rows, and its usual line.

With the default base model labels of passages of English have about the mean and spread of fidelity's, 2.0 and 0.6
(docs/labels.md); for another base model or language, calibrate.
"""


class SurprisalLabels(LabelSource):
    """See the module.

    Args:
        base: whose surprisals they are.
        statistic: one of `STATISTICS`.
        window_tokens: most tokens that are read at once; longer texts are cut as documents are for a press.
        like: labels whose mean and spread theirs shall have, over the texts that both are of.

    Raises:
        InputError: an unknown statistic, or a window without room for two tokens, or beyond the model's positions.
    """

    name: ClassVar[str] = "surprisal"

    def __init__(
        self, base: Base, *, statistic: str = "token", window_tokens: int = 512, like: LabelFile | None = None
    ) -> None:
        super().__init__(base.tokenizer)
        if statistic not in STATISTICS:
            raise InputError(f"statistic {statistic!r} is unknown; choose one of {', '.join(STATISTICS)}")
        if not 2 <= window_tokens <= base.max_positions:
            raise InputError(
                f"window_tokens={window_tokens} must be from 2 to {base.max_positions}, the positions of {base.id!r}"
            )
        self.base, self.statistic, self.window_tokens, self.like = base, statistic, window_tokens, like
        self.backbone = Backbone(base.model)

    @property
    def made_by(self) -> dict[str, Any]:
        """See `LabelSource.made_by`."""
        dtype = str(self.backbone.dtype).removeprefix("torch.")
        base = {"id": self.base.id, "fingerprint": self.base.fingerprint, "dtype": dtype}
        return {"base": base, "window_tokens": self.window_tokens}

    @property
    def settings(self) -> dict[str, Any]:
        """See `LabelSource.settings`."""
        like = None if self.like is None else {"source": self.like.source, "digest": self.like.digest}
        return {"statistic": self.statistic, "like": like}

    def check(self, item: Item) -> Item | str:
        """See `LabelSource.check`."""
        return item if len(item.ids) > 1 else "of a single token, which nothing is before"

    def check_texts(self, digests: Sequence[str]) -> None:
        """See `LabelSource.check_texts`: too few of the texts have labels to be like."""
        if self.like is not None:
            _in_common(self.like, digests)

    def measure(self, items: Sequence[Item]) -> list[Row]:
        """See `LabelSource.measure`."""
        rows = []
        every = surprisals(self.backbone, [item.ids for item in items], self.window_tokens)
        for item, bits in zip(items, every, strict=True):
            if not bool(bits.isfinite().all()):
                raise BaseModelError(
                    f"base model {self.base.id!r} gives record {item.record.id!r} surprisals that are no numbers; "
                    "use --dtype float32, or another base model"
                )
            rows.append(
                {
                    "bits_per_token": float(bits.mean()),
                    "bits_per_character": float(bits.sum()) / len(item.text),
                    "surprising_share": float((bits >= SURPRISING).double().mean()),
                }
            )
        return rows

    def finish(self, rows: Sequence[Row]) -> Finished:
        """See `LabelSource.finish`.

        Raises:
            InputError: too few of the texts have labels to be like, or either are all the same.
        """
        key, line = STATISTICS[self.statistic]
        found: dict[str, Any] = {}
        if self.like is not None:
            line, found = _line_like(self.like, {row["sha256"]: row[key] for row in rows})
        labels = tuple(line.label(row[key]) for row in rows)
        return Finished(log2_ratios=labels, found=asdict(line) | found)


def _in_common(like: LabelFile, digests: Collection[str]) -> list[str]:
    """The texts that have labels to be like."""
    common = sorted({*digests} & like.labels.keys())
    if len(common) < _FEWEST:
        raise InputError(
            f"{like.path} has labels of {len(common)} of the {len(digests)} texts, and --calibrate takes mean and "
            f"spread from at least {_FEWEST}; give labels of the same --data"
        )
    return common


def _line_like(like: LabelFile, values: Mapping[str, float]) -> tuple[Line, dict[str, Any]]:
    """The line whose labels have the mean and the spread of others, over the texts that both are of."""
    common = _in_common(like, values)
    x = [-math.log2(max(values[one], _LEAST)) for one in common]
    y = [like.labels[one].log2_ratio for one in common]
    for numbers, whose in ((x, "surprisals"), (y, f"labels in {like.path}")):
        if not statistics.pstdev(numbers):
            raise InputError(
                f"the {whose} of the {len(common)} texts in common are all the same, so that there is no spread to "
                "match; leave --calibrate out, or choose another --statistic"
            )
    slope = statistics.pstdev(y) / statistics.pstdev(x)
    found = {"in_common": len(common), "correlation": statistics.correlation(x, y)}
    return Line(offset=statistics.fmean(y) - slope * statistics.fmean(x), slope=slope), found


@torch.no_grad()
def surprisals(backbone: Backbone, texts: Sequence[Sequence[int]], window_tokens: int) -> list[Tensor]:
    """Surprisal of each token of each text given those before it in its window, in bits.

    Returns:
        `[T - windows]` float64 a text, on the CPU: the first token of a window has nothing before it and is left out.
    """
    windows = [
        Window(i, start, tuple(text[start:end]))
        for i, text in enumerate(texts)
        for start, end in equal_windows(len(text), window_tokens)
    ]
    parts: list[list[Tensor]] = [[] for _ in texts]
    for batch in passes(windows):
        lengths = [len(window.ids) for window in batch]
        ids = torch.tensor([i for window in batch for i in window.ids], device=backbone.device)
        states = backbone(backbone.embed(ids), Layout.of(lengths, "causal", device=ids.device))
        # Read and predicted tokens of every window; none is predicted from the window before it.
        before = torch.cat([one[:-1] for one in states.split(lengths)])
        after = torch.cat([one[1:] for one in ids.split(lengths)])
        chunks = zip(before.split(_LOGIT_ROWS), after.split(_LOGIT_ROWS), strict=True)
        nats = [F.cross_entropy(backbone.logits(rows), next_ids, reduction="none") for rows, next_ids in chunks]
        bits = torch.cat(nats).double().cpu() / math.log(2)
        for window, own in zip(batch, bits.split([length - 1 for length in lengths]), strict=True):
            parts[window.document].append(own)
    return [torch.cat(own) for own in parts]
