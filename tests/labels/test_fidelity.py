"""Fidelity labels: losses at every ratio are those of one answer at a time, and labels the first crossing."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from tiny import config_for, make_model

from latentpress.attention import Layout
from latentpress.backbone import Base
from latentpress.checkpoints.config import BaseReference
from latentpress.compressors import Ratio
from latentpress.data.records import Record
from latentpress.decoder.generate import embed_pieces
from latentpress.errors import DataError, InputError, PressError
from latentpress.labels.fidelity import FidelityLabels, largest_log2_ratio
from latentpress.labels.making import make_labels
from latentpress.press import Press
from latentpress.tokens import encode_inert


@torch.no_grad()
def naive_losses(press: Press, record: Record) -> dict[str, float]:
    """Every question in a plain causal prompt of its own, every ratio from an encoding of its own."""
    model, tokenizer = press.model, press.base.tokenizer
    maker = FidelityLabels(press).maker
    ids = encode_inert(tokenizer, record.contexts[0])
    found = {}
    for ratio in press.config.candidates:
        latents = model.latents(model.encode([ids]), Ratio(ratio)).vectors
        means = []
        for request, target in maker.tokenize(record).answers:
            prompt = torch.cat(
                (
                    embed_pieces(model.decoder, maker.prefix(1), [latents]),
                    model.decoder.embed(torch.tensor(request + target)),
                )
            )
            logits = model.decoder.logits(model.decoder(prompt, Layout.of((len(prompt),), "causal")))
            means.append(float(F.cross_entropy(logits[-len(target) - 1 : -1], torch.tensor(target))))
        found[str(ratio)] = sum(means) / len(means)
    return found


def test_losses_are_those_of_one_question_at_one_ratio_at_a_time(records: list[Record], press: Press) -> None:
    source = FidelityLabels(press)
    items = [item for record in records if not isinstance(item := source.prepare(record), str)]
    assert len(items) == len(records)
    for record, row in zip(records, source.measure(items), strict=True):
        assert row["losses"] == pytest.approx(naive_losses(press, record), abs=1e-4)
        assert row["questions"] == len(record.qas)


def test_a_label_is_the_crossing_of_the_line_between_two_ratios() -> None:
    losses = {2: 1.0, 4: 1.1, 8: 1.5, 16: 1.05, 32: 9.0}
    assert largest_log2_ratio(losses, 0.2) == pytest.approx(2 + 0.1 / 0.4)  # 1.2 lies a quarter of the way to 8x
    assert largest_log2_ratio(losses, 0.1) == pytest.approx(2.0)
    assert largest_log2_ratio(losses, 0.0) == 1.0
    assert largest_log2_ratio(losses, 1.0) == pytest.approx(4 + 0.95 / 7.95)
    assert largest_log2_ratio(losses, 8.0) == 5.0
    assert largest_log2_ratio(dict.fromkeys(losses, 3.0), 0.0) == 5.0


@given(
    losses=st.lists(st.floats(0, 10), min_size=2, max_size=5), tolerances=st.tuples(st.floats(0, 5), st.floats(0, 5))
)
def test_labels_lie_between_the_candidates_and_rise_with_the_tolerance(
    losses: list[float], tolerances: tuple[float, float]
) -> None:
    measured = {2 ** (i + 1): loss for i, loss in enumerate(losses)}
    low, high = (largest_log2_ratio(measured, tolerance) for tolerance in sorted(tolerances))
    assert 1.0 <= low <= high + 1e-9
    assert high <= len(losses)


def test_labels_are_those_of_the_measured_losses(records: list[Record], press: Press, tmp_path: Path) -> None:
    outcome = make_labels(FidelityLabels(press, tolerance=0.01), records, tmp_path / "labels.jsonl")
    for label in outcome.labels:
        losses = {int(ratio): loss for ratio, loss in label.details["losses"].items()}
        assert label.log2_ratio == largest_log2_ratio(losses, 0.01)
    assert len({label.log2_ratio for label in outcome.labels}) > 1


def test_records_that_cannot_be_measured_are_left_out_and_counted(
    records: list[Record], press: Press, tmp_path: Path
) -> None:
    long = replace(records[0], contexts=("the fox was there and then there were words. " * 12,))
    asked = replace(records[1], qas=(replace(records[1].qas[0], question="who " * 600),))
    outcome = make_labels(FidelityLabels(press), [long, asked, *records[2:]], tmp_path / "labels.jsonl")
    assert [label.id for label in outcome.labels] == ["r2", "r3"]
    assert outcome.left_out == {
        "longer than a window of 48 tokens, each of which has a ratio of its own": 1,
        "whose questions exceed the decoder's 512 positions": 1,
    }
    with pytest.raises(
        DataError, match="none of 1 records can be labelled by fidelity: 1 without questions and answers"
    ):
        make_labels(FidelityLabels(press), [replace(records[0], qas=())], tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    ("policy", "candidates", "said"),
    [("fixed", (4,), "the ratios 4 by policy 'fixed'"), ("length-selector", (4, 8), "the lengths 4, 8 by policy")],
)
def test_a_press_must_have_several_ratios(tiny_base: Base, policy: str, candidates: tuple[int, ...], said: str) -> None:
    config = config_for(tiny_base, policy=policy, candidates=candidates)
    with pytest.raises(PressError, match=rf"'tiny' was trained for {said}.*give a press with at least two"):
        FidelityLabels(Press(make_model(config, tiny_base), tiny_base, None, "feed"))


def test_encoder_and_decoder_must_share_their_base(tiny_base: Base, other_base: Base) -> None:
    encoder = BaseReference(id=other_base.id, fingerprint=other_base.fingerprint, width=other_base.width)
    config = config_for(tiny_base, encoder_base=encoder, residual="none")
    press = Press(make_model(config, tiny_base, other_base), tiny_base, other_base, "feed")
    with pytest.raises(PressError, match="has an encoder of another base model, 'tiny-other'"):
        FidelityLabels(press)


def test_a_tolerance_must_be_a_number_of_nats(press: Press) -> None:
    for tolerance in (-0.1, math.nan, math.inf):
        with pytest.raises(InputError, match=f"tolerance {tolerance:g} must be a finite number"):
            FidelityLabels(press, tolerance=tolerance)


def test_a_loss_that_is_no_number_is_refused_with_record_and_ratio(records: list[Record], tiny_base: Base) -> None:
    model = make_model(config_for(tiny_base), tiny_base)
    assert model.converter is not None
    with torch.no_grad():
        model.converter.down.weight.fill_(math.nan)
    source = FidelityLabels(Press(model, tiny_base, None, "feed"))
    item = source.prepare(records[0])
    assert not isinstance(item, str)
    with pytest.raises(PressError, match=r"the loss of record 'r0' is nan at ratio 2; use --dtype float32"):
        source.measure([item])
