"""A reader of the full text as a teacher: what it predicts, once for each record, and what a press learns from it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import config_for, make_model
from torch import Tensor

from latentpress.attention import Layout
from latentpress.backbone import Backbone, Base
from latentpress.compressors import Ratio
from latentpress.data.rows import Branch, TokenizedRecord
from latentpress.decoder.generate import embed_pieces
from latentpress.errors import InputError, TrainingError
from latentpress.model import PressModel
from latentpress.training.objective import document_latents, row_loss
from latentpress.training.packing import pack
from latentpress.training.teacher import TOP, Teacher, Told, divergence
from latentpress.training.trainer import Rows
from training.helpers import assert_complete, read_log
from training.test_objective import SIZE, rows, tokenized

Train = Callable[..., Path]
# Without the tiny settings of an encoder's adapter, which a reader has none of.
READER: dict[str, Any] = {
    "compressor": "first-tokens",
    "policy": "fixed",
    "candidates": "1,4",
    "residual": "none",
    "ratio_schedule": "",
    "quote_schedule": "0:0",
    "encoder_lora": "none",
    "dropped": ("encoder_lora__rank", "encoder_lora__dropout"),
}


def teacher_of(base: Base, share: float = 1.0, folder: Path | None = None) -> Teacher:
    maker, _ = tokenized(base)
    return Teacher(Backbone(base.model), identity="ab" * 32, prefix=maker.prefix, share=share, folder=folder)


def read_alone(base: Base, record: TokenizedRecord, branch: Branch) -> Tensor:
    """Log-probabilities `[labels, V]` of one request behind the record's text, in a plain causal prompt."""
    backbone, (maker, _) = Backbone(base.model), tokenized(base)
    texts = [backbone.embed(torch.tensor(document)) for document in record.documents]
    shared = embed_pieces(backbone, maker.prefix(len(texts)), texts)
    whole = torch.cat([shared, backbone.embed(torch.tensor(branch.ids))])
    states = backbone(whole, Layout.of([len(whole)], "causal"))
    at = slice(len(shared) + branch.first_label - 1, len(whole) - 1)
    return torch.log_softmax(backbone.logits(states[at]), -1)


def test_a_teacher_predicts_what_it_reads_in_the_records_own_text_whatever_else_the_row_holds(tiny_base: Base) -> None:
    maker, records = tokenized(tiny_base)
    joined = maker.joined(records)
    draw = random.Random(0)
    long = maker.example([joined], draw, questions=5, quotes=1, quote_tokens=10)
    for example in (*rows(tiny_base), long):
        own = [branch for branch in example.branches if branch.source is not None]
        told, known = teacher_of(tiny_base).told([example])
        assert [branch.kind for branch in example.branches if branch.source is None] == ["quote"] * (
            len(example.branches) - len(own)
        )
        assert known.tolist() == [b.source is not None for b in example.branches for _ in range(b.labels)]
        assert len(told.ids) == sum(branch.labels for branch in own)
        start = 0
        for branch in own:
            assert branch.source in records
            alone = read_alone(tiny_base, branch.source, branch)
            part = slice(start, start := start + branch.labels)
            expected = alone.gather(1, told.ids[part])
            torch.testing.assert_close(told.log_probabilities[part], expected, atol=2e-2, rtol=2e-3)
            assert (expected.min(1).values >= alone.topk(TOP).values[:, -1] - 2e-2).all()


def test_a_divergence_from_all_tokens_is_exact_and_from_few_never_more(tiny_base: Base) -> None:
    torch.manual_seed(0)
    logits, theirs = torch.randn(7, 50) * 3, torch.log_softmax(torch.randn(7, 50) * 3, -1)
    whole = (theirs.exp() * (theirs - torch.log_softmax(logits, -1))).sum(1)

    def of(count: int, mine: Tensor) -> Tensor:
        likely, ids = theirs.topk(count)
        return divergence(Told(ids, likely), mine)

    torch.testing.assert_close(of(50, logits), whole, atol=1e-4, rtol=1e-4)
    before = torch.zeros(7)
    for count in (1, 4, 16, 40):
        assert (of(count, logits) <= whole + 1e-4).all()
        assert (of(count, logits) >= before - 1e-4).all()
        before = of(count, logits)
        torch.testing.assert_close(of(count, theirs), torch.zeros(7), atol=1e-4, rtol=0)


def test_the_teachers_share_takes_the_place_of_the_targets_where_it_predicts(
    tiny_model: PressModel, tiny_base: Base
) -> None:
    examples = rows(tiny_base)[:1]
    plain = row_loss(tiny_model, examples, SIZE)
    for share in (0.0, 0.3, 1.0):
        found = row_loss(tiny_model, examples, SIZE, teacher=teacher_of(tiny_base, share))
        embeddings, layout, at, labels = pack(
            tiny_model.decoder, examples, document_latents(tiny_model, examples, SIZE)[0]
        )
        logits = tiny_model.decoder.logits(tiny_model.decoder(embeddings, layout)[at])
        told, known = teacher_of(tiny_base).told(examples)
        assert 0 < int(known.sum()) < len(known)
        targets = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        expected = targets[~known].sum() + (1 - share) * targets[known].sum()
        expected = expected + share * divergence(told, logits[known]).sum()
        torch.testing.assert_close(found.lm, expected)
        assert found.by_kind == plain.by_kind
        assert found.tokens == plain.tokens


def test_a_press_that_reads_as_its_teacher_has_nothing_to_learn(tiny_base: Base) -> None:
    model = make_model(config_for(tiny_base, decoder_lora=None), tiny_base)
    maker, records = tokenized(tiny_base)
    example = maker.example(records[:1], random.Random(0), questions=5, quotes=0, quote_tokens=10)
    text = [[model.decoder.embed(torch.tensor(records[0].documents[0]))]]
    read = row_loss(model, [example], SIZE, latents=text, teacher=teacher_of(tiny_base))
    assert float(read.lm.detach()) == pytest.approx(0.0, abs=2e-2)
    assert float(row_loss(model, [example], SIZE, teacher=teacher_of(tiny_base)).lm.detach()) > 0.1


def test_a_row_of_quotes_alone_is_not_taught(tiny_model: PressModel, tiny_base: Base) -> None:
    maker, records = tokenized(tiny_base)
    example = maker.example(records[2:], random.Random(0), questions=5, quotes=2, quote_tokens=10)
    taught, plain = (row_loss(tiny_model, [example], SIZE, teacher=one).lm for one in (teacher_of(tiny_base), None))
    torch.testing.assert_close(taught, plain)


def test_predictions_are_kept_and_never_made_twice(
    tiny_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = rows(tiny_base)
    first = teacher_of(tiny_base, folder=tmp_path / "cache")
    told, known = first.told(examples)
    first.save()
    first.save()
    (kept,) = (tmp_path / "cache").rglob("*.safetensors")

    def never(*_: object) -> None:
        raise AssertionError("the reader was asked again")

    monkeypatch.setattr(Teacher, "_predicted", never)
    again, known_again = teacher_of(tiny_base, folder=tmp_path / "cache").told(examples)
    assert torch.equal(again.ids, told.ids)
    assert torch.equal(again.log_probabilities, told.log_probabilities)
    assert torch.equal(known, known_again)
    with pytest.raises(AssertionError, match="asked again"):
        teacher_of(tiny_base, folder=tmp_path / "other").told(examples)
    kept.write_bytes(kept.read_bytes()[:100])
    with pytest.raises(TrainingError, match=rf"{kept.name} does not hold .* remove it"):
        teacher_of(tiny_base, folder=tmp_path / "cache")


def test_a_teacher_is_no_part_of_what_is_trained(tiny_model: PressModel, tiny_base: Base) -> None:
    module = Rows(tiny_model, teacher_of(tiny_base, 0.5))
    assert {*module.state_dict()} == {f"press.{name}" for name in tiny_model.state_dict()}
    module(rows(tiny_base)[:1], Ratio(4)).lm.backward()
    assert all(p.grad is None for p in tiny_base.model.parameters())


def test_a_press_learns_from_a_reader_and_goes_on_as_if_it_had_not_stopped(train: Train, tmp_path: Path) -> None:
    reader = train(out="reader", steps=4, learning_rate=5e-3, other_learning_rate=5e-3, **READER) / "press"
    settings: dict[str, Any] = {"teacher": reader, "distill": 0.5, "steps": 6, "encoder_lora__dropout": 0.0}
    whole = train(out="whole", **settings)
    assert_complete(whole)
    assert list((whole / "teacher").rglob("told-*.safetensors"))
    plain = train(out="plain", steps=6, encoder_lora__dropout=0.0)
    assert [line.get("loss") for line in read_log(whole)] != [line.get("loss") for line in read_log(plain)]

    stopped = train(out="stopped", arguments={"minutes": 0.0}, **settings)
    assert not (stopped / "checkpoint-6").exists()
    train(out="stopped", **settings)
    assert read_log(stopped) == read_log(whole)

    shared = {**settings, "teacher_cache": tmp_path / "cache"}
    train(out="first", **shared)
    count = len(list((tmp_path / "cache").rglob("*.safetensors")))
    assert count
    assert read_log(train(out="second", **shared)) == read_log(whole)
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == count
    with pytest.raises(TrainingError, match="teacher was"):
        train(out="whole", **(settings | {"teacher": "", "distill": 0.5}))


def test_what_cannot_teach_is_refused(train: Train) -> None:
    with pytest.raises(InputError, match="teaches nothing at distill=0; give a share"):
        train(teacher="reader")
    press = train(out="press", steps=2) / "press"
    with pytest.raises(TrainingError, match=r"cannot be a teacher: it compresses .* give one of recipe reader"):
        train(out="other", teacher=press, distill=0.5)
    reader = train(out="reader", steps=2, prompt__summary="In short:", **READER) / "press"
    with pytest.raises(TrainingError, match=r"cannot be a teacher: prompt is .*In short:"):
        train(out="other", teacher=reader, distill=0.5)
