"""Pooled cache entries: read in training as in inference, and at ratio 1 the full text."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F
from tiny import config_for, make_model, make_network
from torch import Tensor

from latentpress.attention import KeyValueCache, Layout
from latentpress.compressors import Length, Ratio, Size
from latentpress.data.records import QA, Record
from latentpress.data.rows import Example, ExampleMaker
from latentpress.decoder.generate import MixedPrompt, prefill, prompt_of
from latentpress.decoder.prompt import Slot
from latentpress.errors import BaseModelError, PressError
from latentpress.latents import KVLatents, Latents
from latentpress.lora import LoraSettings
from latentpress.press import Press
from latentpress.training.checkpoint import trained
from latentpress.training.objective import document_latents, row_loss
from latentpress.training.packing import pack

if TYPE_CHECKING:
    from latentpress.backbone import Base
    from latentpress.checkpoints.config import PressConfig
    from latentpress.model import PressModel

TEXTS = (
    "The treaty was signed in Paris on the first day of May, and there was nothing.",
    "The quick brown fox jumps over the lazy dog.",
    "In the beginning there was nothing, and then there were words, written into a document by a lazy fox in Paris.",
)
SIZES: tuple[Size, ...] = (Ratio(4), Ratio(1), Length(5))


def kv_config(base: Base, **changes: Any) -> PressConfig:
    settings: dict[str, Any] = {"compressor": "kv-pooling", "residual": "none", "encoder_lora": None}
    return config_for(base, **(settings | {"encoder_layers": None} | changes))


@pytest.fixture(params=["equal", "salient"])
def model(tiny_base: Base, request: pytest.FixtureRequest) -> PressModel:
    made = make_model(kv_config(tiny_base, compressor_settings={"windows": request.param}), tiny_base)
    counts = torch.randint(0, 500, (tiny_base.model.config.vocab_size,), generator=torch.Generator().manual_seed(2))
    made.compressor.start_from_counts(counts, torch.linspace(0.01, 0.5, len(counts), dtype=torch.float64))
    return made


def rows(base: Base) -> list[Example]:
    """A row of a document of several windows, one of three documents, one of a document in one window."""
    config = config_for(base)
    maker = ExampleMaker(base.tokenizer, config.prompt, 16)
    records = [
        maker.tokenize(
            Record(
                id=str(i),
                contexts=(text,),
                qas=(QA(id="0", question="who?", answers=("fox",)), QA(id="1", question="where?", answers=("Paris",))),
                summary=None,
                short_summary="fox",
                source="test",
                lang=None,
            )
        )
        for i, text in enumerate(TEXTS)
    ]
    groups = [records[2:], records, records[1:2]]
    draw = random.Random(0)
    return [maker.example(group, draw, questions=5, quotes=1, quote_tokens=10) for group in groups]


def naive_losses(model: PressModel, example: Example, latents: Sequence[Tensor]) -> list[Tensor]:
    """Each request behind a cache that the prompt was read into, as answers are given."""
    losses = []
    for branch in example.branches:
        cache = KeyValueCache(1)
        prefill(model.decoder, [prompt_of(model.decoder, example.prefix, latents)], cache)
        ids = torch.tensor(branch.ids)
        positions = torch.arange(len(ids)) + cache.length(0)
        states = model.decoder(model.decoder.embed(ids), Layout((len(ids),), positions, "causal", cache))
        logits = model.decoder.logits(states)[branch.first_label - 1 : -1]
        losses.append(F.cross_entropy(logits, ids[branch.first_label :], reduction="sum"))
    return losses


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
@pytest.mark.parametrize("size", SIZES)
def test_training_reads_latents_as_inference_does(family: str, size: Size, tiny_tokenizer: Any) -> None:
    from latentpress.backbone import wrap_base

    base = wrap_base(make_network(family, len(tiny_tokenizer)), tiny_tokenizer, id=family, fingerprint=family)
    model = make_model(kv_config(base), base)
    examples = rows(base)
    with torch.no_grad():
        latents, _ = document_latents(model, examples, size)
        naive = sum(sum(naive_losses(model, one, own)) for one, own in zip(examples, latents, strict=True))
        packed = row_loss(model, examples, size)
    torch.testing.assert_close(packed.lm, torch.as_tensor(naive), rtol=1e-5, atol=1e-4)


def test_a_mask_hides_what_chunks_leave_out(model: PressModel, tiny_base: Base) -> None:
    import dataclasses

    examples = rows(tiny_base)
    with torch.no_grad():
        latents, _ = document_latents(model, examples, Ratio(2))
        embeddings, layout, _, _ = pack(model.decoder, examples, latents)
        assert all(layout.chunks(None)), "the row goes by chunks"
        by_chunks = model.decoder(embeddings, layout)
        for backend in ("eager", "sdpa"):
            masked = dataclasses.replace(layout, backend=backend)
            torch.testing.assert_close(model.decoder(embeddings, masked), by_chunks, rtol=1e-4, atol=1e-4)


def test_gradients_of_packed_rows_are_those_of_rows_one_by_one(model: PressModel, tiny_base: Base) -> None:
    model.train()
    examples = rows(tiny_base)

    def gradients(batches: Sequence[Sequence[Example]]) -> dict[str, Tensor]:
        model.zero_grad(set_to_none=True)
        for batch in batches:
            row_loss(model, batch, Ratio(4)).lm.backward()
        return {name: p.grad.clone() for name, p in trained(model).items() if p.grad is not None}

    packed, single = gradients([examples]), gradients([[one] for one in examples])
    assert packed.keys() == single.keys() == trained(model).keys() - {"head.linear.weight", "head.linear.bias"}
    for name, gradient in packed.items():
        assert float(gradient.abs().max()) > 0, name
        torch.testing.assert_close(gradient, single[name], rtol=1e-4, atol=1e-5 * float(gradient.abs().max()) + 1e-7)


def test_chunks_and_masks_give_the_same_gradients(model: PressModel, tiny_base: Base) -> None:
    """Against plain autograd through a masked product: the way back of chunks is written by hand."""
    import dataclasses

    examples = rows(tiny_base)[:2]
    found = []
    for backend in ("auto", "eager"):
        model.zero_grad(set_to_none=True)
        latents, _ = document_latents(model, examples, Ratio(2))
        embeddings, layout, _, _ = pack(model.decoder, examples, latents)
        model.decoder(embeddings, dataclasses.replace(layout, backend=backend)).square().sum().backward()
        found.append({name: p.grad.clone() for name, p in trained(model).items() if p.grad is not None})
    for name, gradient in found[0].items():
        largest = float(gradient.abs().max())
        torch.testing.assert_close(gradient, found[1][name], rtol=1e-3, atol=1e-4 * largest + 1e-7)


def test_at_ratio_1_a_document_is_read_as_its_text_is(model: PressModel) -> None:
    """A text alone in a prompt, without anything before it: the decoder's own pass gives the same states."""
    assert_read_as_text(model, 1e-4)


ROPES: dict[str, dict[str, Any]] = {
    "yarn": {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 64},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 10_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
}


@pytest.mark.parametrize(
    ("family", "rope", "dtype", "tolerance"),
    [
        *[(family, "", torch.float32, 1e-4) for family in ("mistral", "qwen2", "qwen3")],
        *[("llama", rope, torch.float32, 1e-4) for rope in ROPES],
        ("llama", "", torch.float64, 1e-6),  # transformers turns keys in float32
        ("llama", "", torch.float16, 2e-2),
        ("llama", "", torch.bfloat16, 2e-1),
    ],
)
def test_so_it_is_whatever_turns_the_keys_and_in_every_type(
    tiny_tokenizer: Any, family: str, rope: str, dtype: torch.dtype, tolerance: float
) -> None:
    from latentpress.backbone import wrap_base

    network = make_network(family, len(tiny_tokenizer))
    if rope:
        network.config.rope_parameters = ROPES[rope]
        network.model.rotary_emb = type(network.model.rotary_emb)(network.config)
        scaled = float(network.model.rotary_emb.attention_scaling)
        assert (scaled == pytest.approx(1.1386, abs=1e-3)) if rope == "yarn" else scaled == 1.0
    base = wrap_base(network.to(dtype), tiny_tokenizer, id=family, fingerprint=family)
    assert_read_as_text(make_model(kv_config(base), base), tolerance)


def assert_read_as_text(model: PressModel, tolerance: float) -> None:
    ids = [5, 9, 13, 21, 34, 55, 89, 7, 3, 44]
    after = [11, 12, 13]
    with torch.no_grad():
        (latents,) = model.latents(model.encode([ids]), Ratio(1)).vectors[None]
        cache = KeyValueCache(1)
        state = prefill(model.decoder, [prompt_of(model.decoder, [Slot(0), after], [latents])], cache)
        whole = model.decoder.embed(torch.tensor([*ids, *after]))
        plain = model.decoder(whole, Layout.of((len(whole),), "causal"))[-1]
    torch.testing.assert_close(state[0], plain, rtol=tolerance, atol=tolerance)
    assert cache.length(0) == len(ids) + len(after)


def test_latents_can_be_placed_anywhere(model: PressModel) -> None:
    """Behind a prompt of another length a latent's key is turned on: relative positions are what attention sees."""
    ids, question = [5, 9, 13, 21, 34, 55, 89, 7], [11, 12, 13]
    with torch.no_grad():
        latents = model.latents(model.encode([ids]), Ratio(2)).vectors
        states = []
        for shift in (0, 17):
            cache = KeyValueCache(1)
            rotation = model.decoder.rotation
            assert rotation is not None
            positions = torch.arange(len(latents)) + shift
            for layer, (key, value) in enumerate(zip(*rotation.placed(latents, positions, torch.float32), strict=True)):
                cache.extend(layer, 0, key, value, positions)
            at = torch.arange(len(question)) + len(latents) + shift
            layout = Layout((len(question),), at, "causal", cache)
            states.append(model.decoder(model.decoder.embed(torch.tensor(question)), layout))
    torch.testing.assert_close(states[0], states[1], rtol=1e-4, atol=1e-4)


def test_a_batch_answers_as_each_prompt_alone_whatever_their_parts(model: PressModel) -> None:
    with torch.no_grad():
        latents = [model.latents(model.encode([ids]), Ratio(2)).vectors for ids in ([5, 6, 7, 8, 9], [30, 31, 32])]
        pieces = [[[1, 2], Slot(0), [40, 41]], [[1, 2], Slot(0), [4], Slot(1), [50]], [[60, 61, 62]]]
        prompts = [prompt_of(model.decoder, one, latents) for one in pieces]
        assert [isinstance(one, MixedPrompt) for one in prompts] == [True, True, False]
        together = prefill(model.decoder, prompts, KeyValueCache(3))
        alone = torch.cat([prefill(model.decoder, [one], KeyValueCache(1)) for one in prompts])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_weights_of_zero_give_plain_means(tiny_base: Base) -> None:
    learned = make_model(kv_config(tiny_base), tiny_base)
    mean = make_model(kv_config(tiny_base, compressor_settings={"weights": "mean"}), tiny_base)
    texts = [[5, 9, 13, 21, 34, 55, 89], [7, 3]]
    with torch.no_grad():
        for name in ("weight", "size"):
            getattr(learned.compressor, name).zero_()
        encoded = learned.encode(texts)
        made = learned.compressor.extract(encoded.states, (7, 2), (Ratio(3), Ratio(3)))
        plain = mean.compressor.extract(encoded.states, (7, 2), (Ratio(3), Ratio(3)))
    expected = torch.stack([encoded.states[a:b].mean(0) for a, b in ((0, 3), (3, 6), (6, 7), (7, 9))])
    torch.testing.assert_close(made.vectors, expected)
    torch.testing.assert_close(plain.vectors, expected)
    assert made.spans.tolist() == [[0, 3], [3, 6], [6, 7], [0, 2]]


def test_pooling_agrees_with_a_naive_loop(model: PressModel) -> None:
    compressor: Any = model.compressor
    lengths, sizes = (9, 4, 1), (Ratio(4), Length(3), Ratio(4))
    layers, heads, width = compressor.weight.shape
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(14, layers * heads * width, generator=generator)
    made = compressor.extract(states, lengths, sizes, ids=torch.randint(0, 99, (14,), generator=generator))
    starts = (0, 9, 13)
    index = 0
    for start, count in zip(starts, made.counts, strict=True):
        for _ in range(count):
            a, b = (made.spans[index] + start).tolist()
            for layer in range(layers):
                for head in range(heads):
                    own = states.view(14, layers, heads, width)[a:b, layer, head]
                    share = torch.softmax(own @ compressor.weight[layer, head], 0)
                    expected = share @ own + torch.tensor(float(b - a)).log2() * compressor.size[layer, head]
                    got = made.vectors.view(-1, layers, heads, width)[index, layer, head]
                    torch.testing.assert_close(got, expected.detach(), rtol=1e-4, atol=1e-4)
            index += 1


def test_bases_whose_keys_cannot_be_turned_are_refused(tiny_tokenizer: Any) -> None:
    from latentpress.backbone import wrap_base

    base = wrap_base(make_network("gemma3", len(tiny_tokenizer)), tiny_tokenizer, id="g", fingerprint="g")
    with pytest.raises(BaseModelError, match=r"Gemma3.*Llama, Mistral, Qwen2, Qwen3"):
        make_model(kv_config(base), base)


@pytest.mark.parametrize(
    "changes",
    [{"encoder_layers": 2}, {"residual": "mean"}, {"prompt_vectors": 2}, {"encoder_lora": LoraSettings()}],
    ids=lambda one: next(iter(one)),
)
def test_what_needs_an_encoder_of_its_own_is_refused(tiny_base: Base, changes: dict[str, Any]) -> None:
    with pytest.raises(PressError, match=f"kv-pooling.*{next(iter(changes))}"):
        make_model(kv_config(tiny_base, **changes), tiny_base)


def test_every_size_has_a_gradient_for_all_that_is_trained(model: PressModel, tiny_base: Base) -> None:
    """Several processes wait for the gradient of each parameter, whatever ratio a step has."""
    for size in (Ratio(1), Ratio(4)):
        model.zero_grad(set_to_none=True)
        result = row_loss(model.train(), rows(tiny_base), size)
        (result.lm + result.ratio).backward()
        assert [name for name, p in trained(model).items() if p.grad is None] == []


def test_a_press_of_entries_keeps_sessions_apart_and_reads_them_again_from_a_file(
    model: PressModel, tiny_base: Base, tmp_path: Path
) -> None:
    press = Press(model, tiny_base, None, "ab")
    latents = press.compress(list(TEXTS), ratio=2)
    session = press.session(latents[:2])
    questions = ["who?", "where was it signed?"]
    expected = [press.ask(latents[:2], question, max_new_tokens=5) for question in questions]
    assert [session.ask(question, max_new_tokens=5) for question in questions] == expected
    assert "".join(session.ask(questions[0], max_new_tokens=5, stream=True)) == expected[0]
    latents[0].save(tmp_path / "a")
    loaded = Latents.load(tmp_path / "a")
    assert isinstance(loaded, KVLatents)
    assert press.ask([loaded, latents[1]], questions[1], max_new_tokens=5) == expected[1]
    content = ["One: ", latents[0], " Two: ", loaded, " Who?"]
    assert isinstance(press.chat([{"role": "user", "content": content}], max_new_tokens=3), str)


def test_salient_windows_hold_equal_shares_of_what_their_tokens_say(tiny_base: Base) -> None:
    model = make_model(kv_config(tiny_base, compressor_settings={"windows": "salient", "sharpness": 2.0}), tiny_base)
    compressor: Any = model.compressor
    vocabulary = tiny_base.model.config.vocab_size
    counts, asked = torch.full((vocabulary,), 9), torch.full((vocabulary,), 0.1, dtype=torch.float64)
    asked[7] = 0.2  # token 7 is asked for twice as often, and weighs four times as much
    compressor.start_from_counts(counts, asked)
    others = compressor.salience[torch.arange(vocabulary) != 7]
    assert float(others.min()) == float(others.max()) == pytest.approx(1, abs=0.02)
    assert float(compressor.salience[7] / others[0]) == pytest.approx(4, rel=0.01)
    encoded = model.encode([[3, 7, 4, 5, 6, 7, 8, 9, 10, 11], [7, 7, 1]])
    made = model.latents(encoded, [Ratio(2), Ratio(3)])  # the first: weights of 1 and 4, capped at 8/3
    assert made.counts == (5, 1)
    assert made.spans.tolist() == [[0, 2], [2, 4], [4, 5], [5, 7], [7, 10], [0, 3]]


def test_a_press_keeps_its_salience(tiny_base: Base, tiny_base_folder: Path, tmp_path: Path) -> None:
    from latentpress.loading import load_model
    from latentpress.training.checkpoint import export_press

    config = kv_config(tiny_base, compressor_settings={"windows": "salient"})
    model = make_model(config, tiny_base)
    compressor: Any = model.compressor
    compressor.start_from_counts(torch.arange(tiny_base.model.config.vocab_size), torch.tensor(0.1))
    export_press(tmp_path / "press", model, config)
    again: Any = load_model(tmp_path / "press", base=tiny_base_folder)[0].compressor
    assert torch.equal(again.salience, compressor.salience)


@pytest.mark.parametrize("value", [-0.5, float("inf"), float("nan")])
def test_a_sharpness_that_orders_nothing_is_refused(tiny_base: Base, value: float) -> None:
    with pytest.raises(PressError, match=f"sharpness={value}.*0 or more"):
        make_model(kv_config(tiny_base, compressor_settings={"windows": "salient", "sharpness": value}), tiny_base)
