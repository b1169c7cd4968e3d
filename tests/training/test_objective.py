"""The loss of packed rows is the loss of their requests, one by one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny import config_for, make_model
from torch import Tensor

from latentpress.attention import Layout
from latentpress.backbone import Base
from latentpress.branches import Branches
from latentpress.compressors import Ratio
from latentpress.data.records import QA, Record
from latentpress.data.rows import Example, ExampleMaker, TokenizedRecord
from latentpress.decoder.generate import embed_pieces
from latentpress.model import PressModel
from latentpress.training.checkpoint import trained
from latentpress.training.objective import (
    Predicted,
    document_latents,
    passes,
    ratio_loss,
    row_loss,
    step_loss,
)
from latentpress.training.packing import pack

SIZE = Ratio(4)


def record(
    text: str, *questions: tuple[str, str], summary: str | None = None, short_summary: str | None = None
) -> Record:
    qas = tuple(QA(id=str(i), question=asked, answers=(answer,)) for i, (asked, answer) in enumerate(questions))
    made = {"id": "r", "contexts": (text,), "qas": qas, "source": "test", "lang": None}
    return Record(summary=summary, short_summary=short_summary, **made)


RECORDS = (
    record(
        "The treaty was signed in Paris on the first day of May, and there was nothing.",
        ("who signed?", "the fox"),
        ("when was the treaty signed?", "the first day of May"),
        ("where?", "Paris"),
        summary="A treaty was signed.",
        short_summary="treaty",
    ),
    record("The quick brown fox jumps over the lazy dog.", ("who jumps?", "fox")),
    record("In the beginning there was nothing, and then there were words, written into a document."),
)


def tokenized(base: Base) -> tuple[ExampleMaker, list[TokenizedRecord]]:
    config = config_for(base)
    maker = ExampleMaker(base.tokenizer, config.prompt, config.window_tokens)
    return maker, [maker.tokenize(one) for one in RECORDS]


def rows(base: Base) -> list[Example]:
    """A row of one document in one window or more, one of a text without questions, one of three documents."""
    maker, records = tokenized(base)
    groups: list[Sequence[TokenizedRecord]] = [records[:1], records[2:], records]
    draw = random.Random(0)
    return [maker.example(group, draw, questions=5, quotes=2, quote_tokens=10) for group in groups]


def one_by_one(examples: Sequence[Example]) -> list[Example]:
    return [replace(example, branches=(branch,)) for example in examples for branch in example.branches]


def naive_loss(model: PressModel, example: Example, latents: Sequence[Tensor]) -> Tensor:
    """The requests of a row, each in a plain causal prompt of its own, with logits everywhere."""
    total = torch.zeros(())
    for branch in example.branches:
        shared = embed_pieces(model.decoder, example.prefix, latents)
        ids = torch.tensor(branch.ids)
        prompt = torch.cat((shared, model.decoder.embed(ids)))
        logits = model.decoder.logits(model.decoder(prompt, Layout.of((len(prompt),), "causal")))
        first = branch.first_label
        total = total + F.cross_entropy(logits[len(shared) + first - 1 : -1], ids[first:], reduction="sum")
    return total


def test_packed_loss_is_that_of_plain_causal_prompts_in_every_family(tiny_bases: Base) -> None:
    model = make_model(config_for(tiny_bases), tiny_bases)
    examples = rows(tiny_bases)
    with torch.no_grad():
        latents, _ = document_latents(model, examples, SIZE)
        naive = sum(naive_loss(model, example, own) for example, own in zip(examples, latents, strict=True))
        packed = row_loss(model, examples, SIZE)
    torch.testing.assert_close(packed.lm, torch.as_tensor(naive), rtol=1e-5, atol=1e-4)
    assert packed.tokens == sum(example.labels for example in examples)


def test_packed_gradients_are_those_of_training_one_by_one(tiny_model: PressModel, tiny_base: Base) -> None:
    tiny_model.train()  # dropout is 0 in these settings
    examples = rows(tiny_base)

    def gradients(batches: Sequence[Sequence[Example]]) -> dict[str, Tensor]:
        tiny_model.zero_grad(set_to_none=True)
        for batch in batches:
            row_loss(tiny_model, batch, SIZE).lm.backward()
        return {name: p.grad.clone() for name, p in trained(tiny_model).items() if p.grad is not None}

    packed = gradients([examples])
    single = gradients([[example] for example in one_by_one(examples)])
    assert packed.keys() == single.keys() == trained(tiny_model).keys() - {"head.linear.weight", "head.linear.bias"}
    for name, gradient in packed.items():
        torch.testing.assert_close(gradient, single[name], rtol=1e-4, atol=1e-5 * float(gradient.abs().max()) + 1e-7)


def test_positions_of_every_request_follow_the_last_latent(tiny_model: PressModel, tiny_base: Base) -> None:
    for example in rows(tiny_base):
        latents, _ = document_latents(tiny_model, [example], SIZE)
        _, layout, _, _ = pack(tiny_model.decoder, [example], latents)
        prefix = len(embed_pieces(tiny_model.decoder, example.prefix, latents[0]))
        expected = [*range(prefix)]
        for branch in example.branches:
            expected += range(prefix, prefix + len(branch.ids))
        assert layout.positions.tolist() == expected
        assert layout.lengths == (len(expected),)


def test_a_request_sees_the_shared_part_and_itself_alone(tiny_model: PressModel, tiny_base: Base) -> None:
    example = rows(tiny_base)[0]
    latents, _ = document_latents(tiny_model, [example], SIZE)
    _, layout, _, _ = pack(tiny_model.decoder, [example], latents)
    assert not isinstance(layout.visibility, str)
    (fork,) = layout.visibility
    assert isinstance(fork, Branches)
    sees = fork.mask()
    prefix = len(sees) - sum(len(branch.ids) for branch in example.branches)
    start = prefix
    for branch in example.branches:
        end = start + len(branch.ids)
        own = torch.ones(end - start, end - start, dtype=torch.bool).tril()
        assert bool(sees[start:end, :prefix].all())
        assert torch.equal(sees[start:end, start:end], own)
        assert not bool(sees[start:end, prefix:start].any())
        assert not bool(sees[start:end, end:].any())
        start = end
    assert torch.equal(sees[:prefix, :prefix], torch.ones(prefix, prefix, dtype=torch.bool).tril())


def test_passes_keep_the_rows_in_order_and_within_their_tokens(tiny_base: Base) -> None:
    examples = rows(tiny_base)
    assert passes(examples, 0) == [list(examples)]
    assert passes(examples, 1) == [[example] for example in examples]
    limit = examples[0].tokens + examples[1].tokens
    parts = passes(examples, limit)
    assert [example for part in parts for example in part] == list(examples)
    assert list(parts[0]) == list(examples[:2])
    assert all(len(part) == 1 or sum(example.tokens for example in part) <= limit for part in parts)


def test_logits_are_computed_where_there_is_a_label_only(
    tiny_model: PressModel, tiny_base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    logits = tiny_model.decoder.logits
    monkeypatch.setattr(tiny_model.decoder, "logits", lambda states: (seen.append(len(states)), logits(states))[1])
    examples = rows(tiny_base)
    row_loss(tiny_model, examples, SIZE)
    assert seen == [sum(example.labels for example in examples)]


def test_losses_by_kind_add_up(tiny_model: PressModel, tiny_base: Base) -> None:
    examples = rows(tiny_base)
    loss = row_loss(tiny_model, examples, SIZE)
    assert set(loss.by_kind) == {"answer", "summary", "quote"}
    assert sum(count for _, count in loss.by_kind.values()) == loss.tokens
    assert sum(total for total, _ in loss.by_kind.values()) == pytest.approx(float(loss.lm.detach()), rel=1e-5)


def test_rows_do_not_depend_on_their_companions(tiny_model: PressModel, tiny_base: Base) -> None:
    examples = rows(tiny_base)
    with torch.no_grad():
        together = row_loss(tiny_model, examples, SIZE)
        alone = [row_loss(tiny_model, [example], SIZE) for example in examples]
    torch.testing.assert_close(together.lm, torch.stack([loss.lm for loss in alone]).sum(), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(together.ratio, torch.stack([loss.ratio for loss in alone]).sum())


def test_ratio_error_counts_once_a_labelled_window_and_skips_the_others(tiny_base: Base) -> None:
    examples = [replace(example, log2_ratios=labels) for example, labels in labelled_rows(tiny_base)]
    windows = sum(len(example.windows) for example in examples)
    predicted = torch.linspace(0.5, 3.5, windows)
    alone = Predicted(predicted, (1,) * windows)
    labels = [label for example in examples for label in example.log2_ratios]
    expected = sum((float(p) - y) ** 2 for p, y in zip(predicted, labels, strict=True) if y is not None)
    loss, count = ratio_loss(examples, alone, torch.device("cpu"))
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    # Two parts, one above and one below what the window had alone: the mean of their squared errors.
    halves = Predicted(torch.stack((predicted - 0.5, predicted + 0.5), 1).flatten(), (2,) * windows)
    parted, count = ratio_loss(examples, halves, torch.device("cpu"))
    assert float(parted) == pytest.approx(expected + 0.25 * count, rel=1e-5)
    assert count == sum(label is not None for label in labels) == len(examples)


def labelled_rows(base: Base) -> list[tuple[Example, tuple[float | None, ...]]]:
    return [(example, (2.5, *[None] * (len(example.windows) - 1))) for example in rows(base)]


def test_rows_without_a_density_label_give_the_head_a_gradient_of_zero(tiny_model: PressModel, tiny_base: Base) -> None:
    maker, records = tokenized(tiny_base)
    example = maker.example(records[1:2], random.Random(0), questions=1, quotes=0, quote_tokens=10)
    loss = row_loss(tiny_model, [example], SIZE)
    assert loss.labelled == 0
    assert float(loss.ratio.detach()) == 0.0
    (loss.lm + loss.ratio).backward()
    assert tiny_model.head is not None
    gradient = tiny_model.head.linear.weight.grad  # there all the same: data parallelism waits for it
    assert gradient is not None
    assert not bool(gradient.any())


def test_mean_of_the_shares_is_the_loss_of_the_whole_step(tiny_model: PressModel, tiny_base: Base) -> None:
    examples = rows(tiny_base)
    totals = {
        "labels": sum(example.labels for example in examples),
        "labelled": sum(label is not None for example in examples for label in example.log2_ratios),
    }
    assert totals["labelled"] > 0
    with torch.no_grad():
        whole = step_loss(row_loss(tiny_model, examples, SIZE), **totals, weight=0.7, processes=1)
        shares = [
            step_loss(row_loss(tiny_model, examples[rank::2], SIZE), **totals, weight=0.7, processes=2)
            for rank in range(2)
        ]
        loss = row_loss(tiny_model, examples, SIZE)
    torch.testing.assert_close(torch.stack(shares).mean(), whole)
    torch.testing.assert_close(whole, loss.lm / totals["labels"] + 0.7 * loss.ratio / totals["labelled"])
