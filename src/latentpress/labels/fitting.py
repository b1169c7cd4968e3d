"""The selector's head of a trained press, fitted to density labels, and nothing else of the press changed.

The head is a linear layer on a state of the encoder, so with the encoder as it is its best weights are those of a ridge
regression, found exactly and at once: presses that differ in what their selectors learned from, and in nothing else.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latentpress.analysis.statistics import pearson
from latentpress.data.held_out import without_held_out
from latentpress.data.labels import LabelFile, text_digest
from latentpress.data.records import Record
from latentpress.errors import DataError, PressError
from latentpress.evaluation.resampling import Floats
from latentpress.model import PressModel, RatioHead
from latentpress.press import Press
from latentpress.tokens import encode_inert
from latentpress.training.checkpoint import export_press
from latentpress.training.labelling import Labelling
from latentpress.windows import Window, passes

LEAST_TEXTS = 20
"""Fewest texts that a head is fitted to."""
_FOLDS = 5
_PENALTIES = tuple(10.0**power for power in range(-3, 5))


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """A linear layer, and how well ones like it predict texts that they were not fitted to."""

    weight: Floats
    """`[De]`."""
    bias: float
    """What is added."""
    penalty: float
    """Of the squared weights, which cross-validation chose."""
    texts: int
    """How many it was fitted to."""
    mae: float
    """Mean absolute error in log2, over the folds of the cross-validation."""
    pearson: float
    """Correlation of label and prediction, over the same."""
    mae_of_mean: float
    """Mean absolute error of always the mean label, over the same."""
    clamped: int = 0
    """How many of the labels were brought to the end of the candidates' range."""

    def told(self) -> dict[str, float | None]:
        """Plain data of all but the layer; a correlation that is not defined is None."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("weight", "bias")}
        return {name: None if math.isnan(value) else value for name, value in plain.items()}


def ridge(features: Floats, labels: Floats) -> Fit:
    """The linear layer of least squares with a penalty of the squared weights.

    The penalty is the one of several powers of ten, times the number of texts, whose squared error on the fifth of the
    texts that is left out in turn is lowest; texts are shared out by their place, every fifth to one.

    Args:
        features: `[N, De]`.
        labels: `[N]`.
    """
    places = np.arange(len(labels)) % _FOLDS
    predicted = np.zeros((len(_PENALTIES), len(labels)))
    means = np.zeros(len(labels))
    for fold in range(_FOLDS):
        inside, outside = places != fold, places == fold
        for row, (weight, bias) in enumerate(_solutions(features[inside], labels[inside])):
            predicted[row, outside] = features[outside] @ weight + bias
        means[outside] = labels[inside].mean()
    best = int(np.square(predicted - labels).sum(1).argmin())
    weight, bias = _solutions(features, labels)[best]
    return Fit(
        weight=weight,
        bias=bias,
        penalty=_PENALTIES[best],
        texts=len(labels),
        mae=float(np.abs(predicted[best] - labels).mean()),
        pearson=pearson(predicted[best], labels),
        mae_of_mean=float(np.abs(means - labels).mean()),
    )


def _solutions(features: Floats, labels: Floats) -> list[tuple[Floats, float]]:
    """Weight and bias at each penalty."""
    middle, level = features.mean(0), float(labels.mean())
    centred = features - middle
    values, vectors = np.linalg.eigh(centred.T @ centred / len(labels))
    target = vectors.T @ (centred.T @ (labels - level) / len(labels))
    weights = [vectors @ (target / (values.clip(0) + penalty)) for penalty in _PENALTIES]
    return [(weight, level - float(middle @ weight)) for weight in weights]


def fit_head(
    press: Press,
    records: Sequence[Record],
    labels: LabelFile,
    out: Path,
    *,
    hold_out: Sequence[Record] = (),
    clamp: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Fit, dict[str, int]]:
    """Fits the head of a press and writes the press with it into a folder.

    Args:
        press: one that chooses, a size for each window or document.
        records: texts; of equal ones the first counts.
        labels: of the texts.
        out: folder of the press that comes out.
        hold_out: passages a fifth of which, and whatever holds their text, is left out; see `without_held_out`.
        clamp: brings labels that the press's candidates cannot reach to the end of their range.
        progress: called with texts done and all texts.

    Returns:
        The fit, and how many records were left out, by the reason as it stands behind "records".

    Raises:
        PressError: the press has no head, or one that reads parts of windows.
        DataError: too few texts have a label, or some labels are outside the candidates' range and not clamped.
    """
    _check(press)
    labelling = Labelling(labels, press.model.policy, clamp=clamp, remedy="give --clamp-labels")
    texts, left_out, clamped = _texts(press, records, labelling, hold_out)
    if len(texts) < LEAST_TEXTS:
        reasons = "".join(f"; {count} records {reason}" for reason, count in left_out.items())
        raise DataError(
            f"{labels.path}: {len(texts)} of {len(records)} records can be fitted to, and {LEAST_TEXTS} are the fewest"
            f"{reasons}; give more --data, or labels of these texts"
        )
    known = np.array([label for _, label in texts])
    fit = ridge(_features(press.model, [ids for ids, _ in texts], progress), known)
    fit = dataclasses.replace(fit, clamped=clamped)
    head = press.model.head
    assert head is not None
    with torch.no_grad():
        head.linear.weight.copy_(torch.from_numpy(fit.weight)[None])
        head.linear.bias.fill_(fit.bias)
    export_press(out, press.model, dataclasses.replace(press.config, trained=_provenance(press, labels, fit)))
    return fit, left_out


def _check(press: Press) -> None:
    name = press.config.name
    if press.model.head is None:
        raise PressError(
            f"press {name!r} has policy {press.config.policy!r}, which predicts nothing; give one with a selector"
        )
    if len(press.model.compressor.parts(press.config.window_tokens)) > 1:
        raise PressError(
            f"press {name!r} chooses for parts of a window, and a label is of a whole text; give one that chooses for "
            "windows (compressor_settings.selects=window)"
        )


def _texts(
    press: Press, records: Sequence[Record], labelling: Labelling, hold_out: Sequence[Record]
) -> tuple[list[tuple[tuple[int, ...], float]], dict[str, int], int]:
    """Tokens and label of each text, what was left out, and how many labels were clamped."""
    counts = {"held out": 0, "of several documents": 0, "without a label": 0, "longer than a window": 0}
    kept = without_held_out(records, hold_out)
    counts["held out"] = len(records) - len(kept)
    labels = labelling.file
    used: list[Record] = []
    found: dict[str, tuple[tuple[int, ...], float]] = {}
    for record in kept:
        label = labels.labels.get(text_digest(record.contexts[0]))
        if len(record.contexts) > 1:
            counts["of several documents"] += 1
        elif label is None:
            counts["without a label"] += 1
        elif label.sha256 not in found:
            ids = tuple(encode_inert(press._encoder_tokenizer, record.contexts[0]))
            if len(ids) > press.config.window_tokens:
                counts["longer than a window"] += 1
            elif ids:
                labels.check_tokens(label, len(ids))
                found[label.sha256] = (ids, labelling.reached(label))
                used.append(record)
    clamped = labelling.check(used).clamped if used else 0
    return [*found.values()], {reason: count for reason, count in counts.items() if count}, clamped


@torch.no_grad()
def _features(
    model: PressModel, texts: Sequence[tuple[int, ...]], progress: Callable[[int, int], None] | None
) -> Floats:
    """What the head reads of each text, `[N, De]`."""
    rows: list[torch.Tensor] = []
    for batch in passes([Window(i, 0, ids) for i, ids in enumerate(texts)], model.compressor.adds):
        gists = model.encode([window.ids for window in batch]).gists
        assert gists is not None
        rows += RatioHead.features(gists).double().cpu()
        if progress is not None:
            progress(len(rows), len(texts))
    return torch.stack(rows).numpy()


def _provenance(press: Press, labels: LabelFile, fit: Fit) -> dict[str, Any]:
    head = {"labels": {"source": labels.source, "digest": labels.digest}, **fit.told()}
    return {"head": head, "after": {"press": press.fingerprint, **press.config.trained}}
