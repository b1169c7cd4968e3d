"""A selector's head fitted to labels: the best ridge regression, and a press that differs in nothing else."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from labels.conftest import make_record
from safetensors.torch import load_file
from tiny import config_for, make_model, make_tokenizer
from training.helpers import WORDS

from latentpress.data.held_out import is_held_out
from latentpress.data.labels import DensityLabel, LabelFile, label_lines, read_labels, text_digest
from latentpress.errors import DataError, PressError
from latentpress.labels.fitting import fit_head, ridge
from latentpress.press import Press, load
from latentpress.tokens import encode_inert

if TYPE_CHECKING:
    from latentpress.backbone import Base
    from latentpress.data.records import Record


def texts(count: int) -> list[Record]:
    draw = random.Random(0)
    return [make_record(i, " ".join(draw.choices(WORDS, k=draw.randint(4, 20)))) for i in range(count)]


def labels_of(records: list[Record], tmp_path: Path, values: list[float]) -> LabelFile:
    tokenizer = make_tokenizer()
    made = [
        DensityLabel(
            id=one.id,
            source="fidelity",
            log2_ratio=value,
            tokens=len(encode_inert(tokenizer, one.contexts[0])),
            sha256=text_digest(one.contexts[0]),
            genre="wiki",
            details={},
        )
        for one, value in zip(records, values, strict=True)
    ]
    path = tmp_path / "labels.jsonl"
    path.write_text(label_lines({"source": "fidelity"}, made), encoding="utf-8")
    return read_labels(path)


def test_a_ridge_is_the_least_of_errors_and_penalty() -> None:
    draw = np.random.default_rng(0)
    features = draw.normal(size=(60, 5))
    labels = features @ np.array([1.0, -2, 0, 0.5, 0]) + 3 + 0.3 * draw.normal(size=60)
    fit = ridge(features, labels)

    def cost(weight: np.ndarray, bias: float) -> float:
        return float(np.square(features @ weight + bias - labels).sum() + 60 * fit.penalty * weight @ weight)

    best = cost(fit.weight, fit.bias)
    for _ in range(50):
        assert cost(fit.weight + 0.01 * draw.normal(size=5), fit.bias + 0.01 * draw.normal()) > best
    assert fit.pearson > 0.95
    assert fit.mae < 0.5 * fit.mae_of_mean


def test_labels_that_features_say_nothing_about_are_hardly_fitted() -> None:
    draw = np.random.default_rng(1)
    features, labels = draw.normal(size=(50, 40)), draw.normal(size=50)
    fit = ridge(features, labels)
    assert np.abs(fit.weight).max() < 0.05
    assert fit.bias == pytest.approx(labels.mean(), abs=0.1)
    assert fit.mae == pytest.approx(fit.mae_of_mean, rel=0.1)


def test_the_head_alone_changes_and_predicts_its_labels(tiny_base: Base, tmp_path: Path) -> None:
    press = Press(make_model(config_for(tiny_base), tiny_base), tiny_base, None, "feed")
    records = texts(60)
    # Labels that the head can know: a linear function of what it reads.
    hidden = torch.randn(press.model.head.linear.in_features, generator=torch.Generator().manual_seed(0))
    head = press.model.head
    encoded = [press.model.encode([tiny_base.tokenizer.encode(one.contexts[0])]) for one in records]
    values = [float(2 + 0.5 * head.features(one.gists).detach() @ hidden) for one in encoded]
    low, high = min(values), max(values)
    labels = labels_of(records, tmp_path, [1 + 2 * (value - low) / (high - low) for value in values])  # 2, 4, 8 reach
    before = {name: tensor.clone() for name, tensor in press.model.state_dict().items()}
    seen: list[tuple[int, int]] = []
    fit, left_out = fit_head(press, records, labels, tmp_path / "out", progress=lambda *at: seen.append(at))
    assert (fit.texts, left_out) == (60, {})
    assert seen[-1] == (60, 60)
    changed = {n for n, tensor in press.model.state_dict().items() if not torch.equal(tensor, before[n])}
    assert changed == {"head.linear.weight", "head.linear.bias"}
    own = load_file(tmp_path / "out" / "modules.safetensors")
    torch.testing.assert_close(own["head.linear.weight"].float(), head.linear.weight, atol=1e-2, rtol=1e-2)
    predicted = [float(head(one.gists).detach()) for one in encoded]
    assert np.corrcoef(predicted, values)[0, 1] > 0.9
    assert fit.pearson > 0.8


def test_a_fitted_press_loads_and_says_what_it_was_fitted_to(
    tiny_base: Base, tiny_base_folder: Path, tmp_path: Path
) -> None:
    press = Press(make_model(config_for(tiny_base), tiny_base), tiny_base, None, "feed")
    records = texts(30)
    labels = labels_of(records, tmp_path, [1.0 + (i % 3) for i in range(30)])
    held = sum(is_held_out(one.id) for one in records)
    assert held
    fit, left_out = fit_head(
        press,
        [*records, make_record(90, "a text without a label"), make_record(91, "fox " * 60)],
        labels,
        tmp_path / "out",
        hold_out=records,
    )
    assert fit.texts == 30 - held
    assert left_out == {"held out": held, "without a label": 2}
    config = load(tmp_path / "out", base=tiny_base_folder).config
    assert config.trained["head"]["labels"] == {"source": "fidelity", "digest": labels.digest}
    assert config.trained["head"]["texts"] == fit.texts
    assert config.trained["after"]["press"] == "feed"


def test_presses_without_a_head_and_too_few_texts_are_refused(tiny_base: Base, tmp_path: Path) -> None:
    fixed = Press(make_model(config_for(tiny_base, policy="fixed"), tiny_base), tiny_base, None, "feed")
    records = texts(30)
    labels = labels_of(records, tmp_path, [1.0] * 30)
    with pytest.raises(PressError, match="policy 'fixed', which predicts nothing; give one with a selector"):
        fit_head(fixed, records, labels, tmp_path / "out")
    press = Press(make_model(config_for(tiny_base), tiny_base), tiny_base, None, "feed")
    with pytest.raises(DataError, match=r"19 of 24 records can be fitted to, and 20 are the fewest; 5 records without"):
        fit_head(press, [*records[:19], *texts(64)[40:45]], labels, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_labels_that_no_candidate_reaches_are_refused_or_brought_to_the_end(tiny_base: Base, tmp_path: Path) -> None:
    press = Press(make_model(config_for(tiny_base), tiny_base), tiny_base, None, "feed")
    records = texts(40)
    lowest, highest = (float(np.log2(press.config.candidates[place])) for place in (0, -1))
    labels = labels_of(records, tmp_path, [highest + 3] * 10 + [0.0] * 10 + [lowest, highest] * 10)
    with pytest.raises(
        DataError, match=rf"outside {lowest:g} to {highest:g}, .* as have 20 of 40; give --clamp-labels"
    ):
        fit_head(press, records, labels, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    within = labels_of(records, tmp_path, [highest] * 10 + [lowest] * 10 + [lowest, highest] * 10)
    clamped, _ = fit_head(press, records, labels, tmp_path / "out", clamp=True)
    other, _ = fit_head(press, records, within, tmp_path / "other")
    assert (clamped.weight == other.weight).all()
    assert (clamped.clamped, other.clamped) == (20, 0)
