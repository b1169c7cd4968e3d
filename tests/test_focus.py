"""Windows that a question is about: told by attention, read alone, for documents of any length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from handmade import OTHER_TEXT, QUESTION, TEXT
from tiny import config_for, make_model, make_network
from torch import Tensor

from latentpress import focus
from latentpress.attention import KeyValueCache, LastTokenAttention
from latentpress.backbone import wrap_base
from latentpress.decoder.generate import prefill
from latentpress.errors import BaseModelError, ContextTooLongError, InputError, LatentsError
from latentpress.press import Press

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from latentpress.backbone import Base
    from latentpress.latents import Latents

LONG = " ".join(f"{TEXT} {OTHER_TEXT}" for _ in range(5))
KINDS = ("mean-pooling", "kv-pooling")


@pytest.fixture(scope="module", params=KINDS)
def press(tiny_base: Base, request: pytest.FixtureRequest) -> Press:
    made = config_for(tiny_base)
    if request.param == "kv-pooling":
        made = replace(made, compressor="kv-pooling", encoder_layers=None, encoder_lora=None, residual="none")
    made = replace(made, window_tokens=40)
    return Press(make_model(made, tiny_base), tiny_base, None, "feed")


@pytest.fixture(scope="module")
def latents(press: Press) -> Latents:
    made = press.compress(LONG, ratio=2)
    assert 16 < len(made.windows) <= 24, "three groups of windows that are read together"
    return made


def starts(chosen: Sequence[Latents]) -> list[list[int]]:
    return [[window.start for window in one.windows] for one in chosen]


def test_windows_of_latents_keep_their_vectors_and_places(latents: Latents) -> None:
    part = latents.of_windows([1, 3])
    counts = [window.latents for window in latents.windows]
    rows = [*range(counts[0], sum(counts[:2])), *range(sum(counts[:3]), sum(counts[:4]))]
    assert part.windows == (latents.windows[1], latents.windows[3])
    for name in ("vectors", "token_spans", "char_spans"):
        assert torch.equal(getattr(part, name), getattr(latents, name)[rows])
    assert (part.text_sha256, part.press_fingerprint) == (latents.text_sha256, latents.press_fingerprint)
    assert torch.equal(latents.of_windows(range(len(latents.windows))).vectors, latents.vectors)


@pytest.mark.parametrize("indices", [[], [1, 0], [0, 0], [-1], [99]])
def test_windows_that_are_none_are_refused(latents: Latents, indices: list[int]) -> None:
    with pytest.raises(LatentsError, match="rising order"):
        latents.of_windows(indices)


def test_the_last_tokens_attention_is_the_models_own(tiny_bases: Base) -> None:
    """Beside the weights that transformers' eager attention returns for the same tokens."""
    from latentpress.backbone import Backbone

    ids = torch.arange(20, 26)  # within every layer's sliding window
    model = tiny_bases.model
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            weights = model(input_ids=ids[None], output_attentions=True).attentions
    finally:
        model.set_attn_implementation(before)
    keys = torch.tensor([1, 2, 4])
    given = torch.stack([weights[layer][0, :, -1, keys] for layer in (1, 2)])
    expected = (given / given.sum(-1, keepdim=True)).mean((0, 1))

    backbone = Backbone(model)
    watched = LastTokenAttention(keys, range(1, 3))
    prefill(backbone, [backbone.embed(ids)], KeyValueCache(1), watched)
    torch.testing.assert_close(watched.shares(), expected, atol=1e-5, rtol=1e-4)


def test_a_pass_before_the_keys_are_there_is_not_looked_at() -> None:
    watched = LastTokenAttention(torch.tensor([1, 3]), range(1))
    query, key = torch.randn(2, 3, 4), torch.randn(1, 3, 4)
    watched.take(0, query, key, 1.0, window=None, softcap=None)
    longer = torch.randn(1, 5, 4)
    watched.take(1, query, longer, 1.0, window=None, softcap=None)  # no layer of it
    watched.take(0, query, longer, 1.0, window=3, softcap=None)  # from the fifth token the second is out of sight
    assert watched.shares() is None
    for window in (4, None):
        watched.take(0, query, longer, 0.5, window=window, softcap=None)
        scores = torch.einsum("hd,cd->hc", query[:, -1], longer[0][[1, 3]]) * 0.5
        torch.testing.assert_close(watched.shares(), scores.softmax(-1).mean(0))


def test_layers_that_see_a_window_only_are_left_out(tiny_bases: Base) -> None:
    from latentpress.backbone import Backbone

    backbone = Backbone(tiny_bases.model)
    kinds = getattr(tiny_bases.model.config, "layer_types", None)
    slides = getattr(tiny_bases.model.config, "sliding_window", None) is not None
    seeing = [layer for layer in range(3) if not slides or (kinds and kinds[layer] == "full_attention")]
    keys = torch.tensor([1, 5, 18])
    embedded = backbone.embed(torch.arange(20, 40))

    def shares(layers: range) -> Tensor | None:
        watched = LastTokenAttention(keys, layers)
        prefill(backbone, [embedded], KeyValueCache(1), watched)
        return watched.shares()

    together = shares(range(3))
    if not seeing:
        assert together is None
        return
    alone = [shares(range(layer, layer + 1)) for layer in range(3)]
    assert [layer for layer, one in enumerate(alone) if one is not None] == seeing
    assert together is not None
    torch.testing.assert_close(together, torch.stack([one for one in alone if one is not None]).mean(0))


def test_a_decoder_that_sees_a_window_only_is_refused(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    network = make_network("mistral", len(tiny_tokenizer))
    base = wrap_base(network, tiny_tokenizer, id="tiny-mistral", fingerprint="cafe")
    press = Press(make_model(config_for(base), base), base, None, "feed")
    with pytest.raises(BaseModelError, match="ask without focus"):
        press.ask(LONG[:600], QUESTION, focus=1)


def test_halves_are_left_out_by_what_is_looked_at(
    press: Press, latents: Latents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The windows are told apart by a number each; at which one looks most, the reading alone decides."""
    total = len(latents.windows)
    wanted = {4, 11, 13}
    groups: list[list[int]] = []

    def looked(_: Any, documents: Any, units: Sequence[Any], request: list[int]) -> list[float]:
        groups.append([unit.window for unit in units])
        return [2.0 + unit.window / 100 if unit.window in wanted else 0.5 for unit in units]

    monkeypatch.setattr(focus, "_looked_at", looked)
    chosen = press.focus(latents, QUESTION, windows=2)
    assert starts(chosen) == [[latents.windows[i].start for i in (11, 13)]]
    assert sum(map(len, groups[:3])) == total
    assert max(map(len, groups)) <= 8
    assert [w for group in groups[:3] for w in group] == list(range(total)), "every window once, in order"
    assert min(map(len, groups[:3])) >= max(map(len, groups[:3])) - 1
    groups.clear()
    assert press.focus(latents, QUESTION, windows=total)[0].windows == latents.windows
    assert groups == [], "nothing to leave out, nothing to read"
    assert len(press.focus(latents, QUESTION, windows=total - 1)[0].windows) == total - 1


def test_what_is_looked_at_is_the_attention_of_the_whole_prompt(press: Press, latents: Latents) -> None:
    """By the definition: every latent but the first of a window, of all of one prompt, summed by window."""
    part = latents.of_windows(range(5))
    reader = press._reader
    request = reader.request(QUESTION)
    seen: dict[int, tuple[Tensor, Tensor, float]] = {}

    class Spy(LastTokenAttention):
        def take(self, layer: int, query: Tensor, key: Tensor, scale: float, **_: Any) -> None:
            seen[layer] = (query[:, -1], key, scale)

    prompt = [*reader.opening(1), request]
    prefill(reader.backbone, [reader.embed(prompt, [part])], KeyValueCache(1), Spy(torch.tensor([0]), range(9)))
    query, key, scale = seen[2]  # the one layer of three
    before = reader.positions(prompt[:-1], [part]) - len(part)
    heads = key.shape[0]
    scores = torch.einsum("kgd,kcd->kgc", query.view(heads, -1, query.shape[-1]), key) * scale
    bounds = [0]
    for window in part.windows:
        bounds.append(bounds[-1] + window.latents)
    kept = [before + i for i in range(len(part)) if i not in bounds]
    weights = scores[..., kept].softmax(-1).mean((0, 1))
    owner = [sum(before + bound <= place for bound in bounds[1:]) for place in kept]
    expected = [5 * float(sum(w for w, o in zip(weights, owner, strict=True) if o == i)) for i in range(5)]

    units = [focus._Unit(0, i) for i in range(5)]
    assert focus._looked_at(reader, [latents], units, request) == pytest.approx(expected, rel=1e-4)
    assert sum(expected) == pytest.approx(5, rel=1e-4)
    assert list(focus._layers(3)) == [2]
    assert list(focus._layers(30)) == [20, 21, 22, 23]
    assert [len(focus._layers(n)) for n in (1, 2)] == [1, 1]


def test_an_answer_is_that_of_the_windows_alone(press: Press, latents: Latents) -> None:
    chosen = press.focus(latents, QUESTION, windows=2)
    assert sum(len(one.windows) for one in chosen) == 2
    expected = press.ask(chosen, QUESTION, max_new_tokens=8)
    assert expected != press.ask(latents, QUESTION, max_new_tokens=8)
    assert press.ask(latents, QUESTION, focus=2, max_new_tokens=8) == expected
    assert "".join(press.ask(latents, QUESTION, focus=2, max_new_tokens=8, stream=True)) == expected
    other = press.compress(TEXT, ratio=2)
    assert press.ask_many([latents, other], [QUESTION, "When?"], focus=2, max_new_tokens=8) == [
        expected,
        press.ask(other, "When?", focus=2, max_new_tokens=8),
    ]


def test_documents_keep_their_order_and_those_without_a_window_are_left_out(press: Press) -> None:
    texts = [TEXT, OTHER_TEXT, LONG]
    documents = press.compress(texts, ratio=2)
    chosen = press.focus(documents, QUESTION, windows=3)
    names = [one.text_sha256 for one in documents]
    places = [names.index(one.text_sha256) for one in chosen]
    assert places == sorted(set(places))
    assert sum(len(one.windows) for one in chosen) == 3
    fresh = press.focus(texts, QUESTION, windows=3)
    own = press.focus(press.compress(texts), QUESTION, windows=3)
    assert [one.windows for one in fresh] == [one.windows for one in own]
    every = press.focus(documents, QUESTION, windows=99)
    assert [one.windows for one in every] == [one.windows for one in documents]


def test_documents_may_be_longer_than_the_decoder_has_positions(press: Press) -> None:
    longer = press.compress(" ".join([LONG] * 2), ratio=2)
    with pytest.raises(ContextTooLongError):
        press.ask(longer, QUESTION)
    (chosen,) = press.focus(longer, QUESTION)
    assert len(chosen.windows) == 2
    expected = press.ask(chosen, QUESTION, max_new_tokens=3)
    assert press.ask(longer, QUESTION, focus=2, max_new_tokens=3) == expected


def test_windows_are_read_together_as_far_as_there_is_room(tiny_base: Base) -> None:
    wide = config_for(tiny_base, window_tokens=200)
    press = Press(make_model(wide, tiny_base), tiny_base, None, "feed")
    latents = press.compress(" ".join([LONG] * 2), ratio=2)
    assert 512 / 4 > latents.windows[0].latents > 512 / 8, "eight do not fit, a few do"
    (chosen,) = press.focus(latents, QUESTION, windows=2)
    assert len(chosen.windows) == 2
    with pytest.raises(ContextTooLongError):
        press.focus(latents, "Who? " * 300, windows=2)


def test_windows_of_one_latent_are_told_apart_too(press: Press) -> None:
    documents = press.compress(["A fox.", "The mayor signed it.", TEXT], ratio=8)
    assert min(len(one) for one in documents) == 1
    reader = press._reader
    units = [focus._Unit(i, j) for i, one in enumerate(documents) for j in range(len(one.windows))]
    looked = focus._looked_at(reader, documents, units, reader.request(QUESTION))
    assert len(looked) == len(units)
    assert min(looked) > 0
    assert sum(looked) == pytest.approx(len(units), rel=1e-4)


@pytest.mark.parametrize("windows", [0, -1, 1.5, True, "2"])
def test_numbers_of_windows_that_are_none_are_refused(press: Press, latents: Latents, windows: Any) -> None:
    for call in (
        lambda: press.ask(latents, QUESTION, focus=windows),
        lambda: press.ask_many([latents], [QUESTION], focus=windows),
        lambda: press.focus(latents, QUESTION, windows=windows),
    ):
        with pytest.raises(InputError, match="whole number of windows"):
            call()
    with pytest.raises(InputError, match="leaves nothing out"):
        press.focus(latents, QUESTION, windows=None)  # type: ignore[arg-type]
