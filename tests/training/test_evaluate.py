"""What is measured on held-out records as a training goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import config_for, make_model

from latentpress.backbone import Base
from latentpress.compressors import Ratio
from latentpress.data.records import Record, read_records
from latentpress.data.rows import ExampleMaker, TokenizedRecord
from latentpress.model import PressModel
from latentpress.press import Press
from latentpress.training.evaluate import DevSet, dev_metrics, evaluate_f1, loss_sums, make_dev_set
from latentpress.training.objective import row_loss
from latentpress.training.overrides import make_recipe
from latentpress.training.recipes import Recipe
from training.helpers import overrides


@pytest.fixture
def recipe() -> Recipe:
    return make_recipe("semidynamic", overrides(dev_rows=9, dev_ratios="4,8", f1_questions=4))


@pytest.fixture
def sources(data: Path) -> list[Record]:
    return read_records(data)


@pytest.fixture
def records(tiny_base: Base, sources: list[Record]) -> list[TokenizedRecord]:
    maker = maker_of(tiny_base)
    return [maker.tokenize(source) for source in sources]


def maker_of(base: Base) -> ExampleMaker:
    config = config_for(base)
    return ExampleMaker(base.tokenizer, config.prompt, config.window_tokens)


@pytest.fixture
def dev(tiny_base: Base, records: list[TokenizedRecord], sources: list[Record], recipe: Recipe) -> DevSet:
    return make_dev_set(records, sources, maker_of(tiny_base), recipe)


def measure(press: PressModel, dev: DevSet, recipe: Recipe, base: Base, share: slice = slice(None)) -> dict[str, float]:
    return dev_metrics(press, dev, recipe, base.tokenizer, share=share, reduce=list)


def test_the_same_rows_and_questions_are_drawn_every_time(
    tiny_base: Base, dev: DevSet, records: list[TokenizedRecord], sources: list[Record], recipe: Recipe
) -> None:
    assert make_dev_set(records, sources, maker_of(tiny_base), recipe) == dev
    assert make_dev_set(records, sources, maker_of(tiny_base), replace(recipe, seed=1)) != dev
    assert sum(map(len, dev.batches)) == 9
    assert len(dev.questions) == 4


def test_no_row_is_alone_with_its_latents_where_another_has_as_many_documents(
    tiny_base: Base, records: list[TokenizedRecord], sources: list[Record], recipe: Recipe
) -> None:
    pairs = [replace(one, documents=one.documents * 2) for one in records[:4]]
    for rows in range(2, 24):
        dev = make_dev_set(
            [*records, *pairs], [*sources, *sources[:4]], maker_of(tiny_base), replace(recipe, dev_rows=rows)
        )
        documents = [{len(example.documents) for example in batch} for batch in dev.batches]
        assert all(len(kinds) == 1 for kinds in documents)
        assert sum(len(batch) == 1 for batch in dev.batches) <= 2
        assert all(len(batch) <= 8 for batch in dev.batches)
        for kind in (1, 2):
            sizes = [len(batch) for batch, kinds in zip(dev.batches, documents, strict=True) if kinds == {kind}]
            assert len(sizes) < 2 or min(sizes) > 1


def test_right_latents_give_the_training_loss_and_wrong_ones_those_of_the_next_row(
    tiny_model: PressModel, dev: DevSet
) -> None:
    sums = loss_sums(tiny_model, dev.batches, Ratio(4))
    for kind in ("answer", "quote"):
        losses = [row_loss(tiny_model, batch, Ratio(4)).by_kind[kind] for batch in dev.batches]
        assert sums[kind][0] == pytest.approx(sum(total for total, _ in losses), rel=1e-5)
        assert sums[kind][1] == sum(count for _, count in losses) == sums[f"{kind}_wrong"][1]
        assert sums[kind][0] != pytest.approx(sums[f"{kind}_wrong"][0], rel=1e-4)
    errors = [row_loss(tiny_model, batch, Ratio(4)) for batch in dev.batches]
    assert sums["ratio_error"][0] == pytest.approx(sum(float(loss.ratio.detach()) for loss in errors), rel=1e-5)
    assert sums["ratio_error"][1] == sum(loss.labelled for loss in errors)


def test_a_model_that_reads_no_latents_has_the_same_loss_with_wrong_ones(
    tiny_model: PressModel, dev: DevSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    from latentpress.training import evaluate

    real = evaluate.document_latents

    def alike(model: PressModel, batch: Sequence[object], size: Ratio) -> object:
        latents, predicted = real(model, batch, size)  # type: ignore[arg-type]
        return [[vectors.new_zeros(3, vectors.shape[1]) for vectors in own] for own in latents], predicted

    monkeypatch.setattr(evaluate, "document_latents", alike)
    sums = loss_sums(tiny_model, dev.batches, Ratio(4))
    for kind in ("answer", "quote"):
        assert sums[kind][0] == pytest.approx(sums[f"{kind}_wrong"][0], rel=1e-5)


def test_the_judged_loss_is_the_answers_mean_over_the_ratios(
    tiny_model: PressModel, dev: DevSet, recipe: Recipe, tiny_base: Base
) -> None:
    metrics = measure(tiny_model, dev, recipe, tiny_base)
    assert {"x4_answer", "x4_answer_wrong", "x8_quote", "x8_quote_wrong", "ratio_error", "f1_x4", "loss"} <= set(
        metrics
    )
    assert metrics["loss"] == pytest.approx((metrics["x4_answer"] + metrics["x8_answer"]) / 2)
    other = measure(tiny_model, dev, replace(recipe, dev_ratios=(16,), f1_ratio=16), tiny_base)
    assert {"x2_answer", "x4_answer", "x8_answer"} <= set(other)  # 16 is no candidate
    assert not any(name.startswith("f1") for name in other)


def test_dev_records_without_questions_are_judged_by_all_their_targets(
    tiny_model: PressModel, records: list[TokenizedRecord], sources: list[Record], recipe: Recipe, tiny_base: Base
) -> None:
    plain = [replace(one, answers=()) for one in records]
    dev = make_dev_set(plain, [replace(source, qas=()) for source in sources], maker_of(tiny_base), recipe)
    assert dev.questions == ()
    metrics = measure(tiny_model, dev, replace(recipe, dev_ratios=(4,)), tiny_base)
    sums = loss_sums(tiny_model, dev.batches, Ratio(4))
    total, count = (sum(sums[kind][i] for kind in ("summary", "quote")) for i in range(2))
    assert metrics["loss"] == pytest.approx(total / count)


def test_f1_in_training_is_that_of_the_press_answering(
    tiny_base: Base, recipe: Recipe, dev: DevSet, sources: list[Record], records: list[TokenizedRecord]
) -> None:
    model = make_model(config_for(tiny_base), tiny_base)
    press = Press(model, tiny_base, None, "f" * 64)
    texts = {one.documents: source for one, source in zip(records, sources, strict=True)}
    maker = maker_of(tiny_base)
    questions = []
    for question in dev.questions:
        source = texts[question.row.windows]
        asked = [maker.tokenize(replace(source, qas=(qa,))).answers[0][0] for qa in source.qas]
        text = source.qas[asked.index(question.request)].question
        latents = press.compress(source.contexts[0], ratio=4)
        questions.append(replace(question, answers=(press.ask(latents, text, max_new_tokens=32),)))
    assert any(question.answers[0].strip() for question in questions)
    scores = evaluate_f1(model, tiny_base.tokenizer, questions, Ratio(4), batch_size=3)
    assert scores == [1.0] * 4
    wrong = [replace(question, answers=("nothing of the kind 12345",)) for question in questions]
    assert evaluate_f1(model, tiny_base.tokenizer, wrong, Ratio(4)) == [0.0] * 4
