"""Latents learned from another press: the distance falls, and what reads them is taken over as it is."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import config_for, make_model

from latentpress.backbone import Base
from latentpress.checkpoints.io import read_press
from latentpress.compressors import Ratio
from latentpress.errors import TrainingError
from latentpress.model import PressModel
from latentpress.training.checkpoint import checkpoints
from latentpress.training.objective import IMITATION, imitation_loss, latents_of
from training.helpers import read_log
from training.test_objective import SIZE, rows, tokenized

Train = Callable[..., Path]
SLOTS: dict[str, Any] = {
    "compressor": "comprexit",
    "compressor_settings__segment_tokens": 8,
    "compressor_settings__query_width": 16,
    "policy": "fixed",
    "encoder_layers": "none",
    "encoder_lora": "none",
}
# `encoder_lora=none` stands before the tiny settings of that adapter otherwise.
LEFT_OUT = ("encoder_lora__rank", "encoder_lora__dropout")


def slots(base: Base, **changes: Any) -> PressModel:
    config = config_for(
        base,
        compressor="comprexit",
        **({"compressor_settings": {"segment_tokens": 8, "query_width": 16}} | changes),
        policy="fixed",
        encoder_layers=None,
        encoder_lora=None,
    )
    return make_model(config, base)


def test_a_press_is_not_far_from_itself(tiny_model: PressModel, tiny_base: Base) -> None:
    found = imitation_loss(tiny_model, rows(tiny_base), SIZE, tiny_model)
    assert float(found.lm.detach()) == pytest.approx(0.0, abs=1e-6)
    assert found.tokens == latents_of(tiny_model, rows(tiny_base), SIZE)


def test_the_distance_is_that_of_each_latent_in_terms_of_the_other(tiny_model: PressModel, tiny_base: Base) -> None:
    maker, records = tokenized(tiny_base)
    own = slots(tiny_base)
    example = maker.example(records[1:2], random.Random(0), questions=1, quotes=0, quote_tokens=10)
    (window,) = example.windows
    with torch.no_grad():
        mine, theirs = (one.latents(one.encode([window]), [SIZE]).vectors for one in (own, tiny_model))
    count = len(mine)
    expected = 0.0
    edges = [*range(0, len(window), 8), len(window)]  # of segments, whose slots are near-equal stretches
    spans = [
        (start + a, start + b)
        for start, end in itertools.pairwise(edges)
        for a, b in equal_stretches(end - start, -(-(end - start) // SIZE.value))
    ]
    for vector, (start, end) in zip(mine, spans, strict=True):
        other = theirs[(start + end - 1) // 2 // SIZE.value]
        expected += float((vector - other).square().sum() / other.square().sum())
    found = imitation_loss(own, [example], SIZE, tiny_model)
    assert float(found.lm.detach()) == pytest.approx(expected, rel=1e-4)
    assert found.by_kind == {IMITATION: (pytest.approx(expected, rel=1e-4), count)}
    assert found.tokens == count == latents_of(own, [example], SIZE)


def equal_stretches(tokens: int, count: int) -> list[tuple[int, int]]:
    """Near-equal stretches, the first ones longer."""
    sizes = [tokens // count + (k < tokens % count) for k in range(count)]
    edges = [0, *itertools.accumulate(sizes)]
    return [*itertools.pairwise(edges)]


@pytest.mark.parametrize("segment", [5, 6, 8])
def test_every_latent_has_one_to_learn_from_however_segments_are_cut(
    tiny_model: PressModel, tiny_base: Base, segment: int
) -> None:
    own = slots(tiny_base, compressor_settings={"segment_tokens": segment, "query_width": 16}, candidates=(2, 4))
    examples = rows(tiny_base)
    for ratio in (2, 4):
        found = imitation_loss(own, examples, Ratio(ratio), tiny_model)
        assert found.tokens == latents_of(own, examples, Ratio(ratio))


def test_slots_come_nearer_and_what_reads_them_stays(train: Train) -> None:
    teacher = train(out="teacher", steps=2) / "press"
    out = train(out="slots", steps=12, imitate=teacher, other_learning_rate=5e-3, dropped=LEFT_OUT, **SLOTS)
    distances = [line[IMITATION] for line in read_log(out) if IMITATION in line]
    assert distances[-1] < 0.95 * distances[0]
    _, there, their_adapters, _ = read_press(teacher)
    _, here, our_adapters, _ = read_press(out / "press")
    assert [*our_adapters] == ["decoder"]
    for name, tensor in their_adapters["decoder"].items():
        torch.testing.assert_close(our_adapters["decoder"][name], tensor)
    for name in ("residual.salience", "residual.log_gain"):
        torch.testing.assert_close(here[name], there[name])


def test_an_interrupted_imitation_goes_on(train: Train) -> None:
    teacher = train(out="teacher", steps=2) / "press"
    given = {"imitate": teacher, "dropped": LEFT_OUT, "save_every": 2, **SLOTS}
    whole = train(out="whole", steps=4, **given)
    train(out="parts", steps=4, arguments={"minutes": 1e-9}, **given)
    assert checkpoints(whole.parent / "parts")[-1][0] < 4
    parts = train(out="parts", steps=4, **given)
    for name, tensor in read_press(whole / "press")[1].items():
        assert torch.equal(read_press(parts / "press")[1][name], tensor), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"residual": "none"}, "residual is 'salient' there, 'none' here"),
        ({"decoder_lora__rank": 3}, "decoder_lora is"),
        ({"prompt_vectors": 3}, "prompt_vectors is 0 there, 3 here"),
    ],
)
def test_a_press_of_another_kind_cannot_be_imitated(train: Train, changes: dict[str, Any], message: str) -> None:
    teacher = train(out="teacher", steps=1) / "press"
    with pytest.raises(TrainingError, match=f"cannot be imitated: {message}"):
        train(out="slots", steps=1, imitate=teacher, dropped=LEFT_OUT, **{**SLOTS, **changes})


def test_only_what_makes_latents_is_trained(train: Train) -> None:
    teacher = train(out="teacher", steps=1) / "press"
    out = train(out="slots", steps=1, imitate=teacher, dropped=LEFT_OUT, **SLOTS)
    names = {*load_file(checkpoints(out)[-1][1] / "masters.safetensors")}
    assert names
    assert {name.split(".")[0] for name in names} == {"compressor"}
