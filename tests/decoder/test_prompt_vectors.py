"""Prompt tuning: learned vectors stand before the first document of every prompt, whoever makes the prompt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from handmade import QUESTION, TEXT
from tiny import config_for, make_model
from torch.nn import functional as F

from latentpress.backbone import Backbone
from latentpress.checkpoints.config import PressConfig
from latentpress.decoder.generate import embed_pieces
from latentpress.decoder.prompt import Slot
from latentpress.errors import ContextTooLongError, PressError
from latentpress.loading import load_model
from latentpress.press import Press
from latentpress.training.checkpoint import export_press, trained

if TYPE_CHECKING:
    from latentpress.backbone import Base

VECTORS = 5


def tuned(base: Base) -> PressConfig:
    return config_for(
        base,
        compressor="first-tokens",
        policy="fixed",
        residual="none",
        encoder_layers=None,
        encoder_lora=None,
        decoder_lora=None,
        candidates=(1,),
        prompt_vectors=VECTORS,
    )


def test_vectors_stand_before_the_first_document_alone(tiny_base: Base) -> None:
    backbone = Backbone(tiny_base.model, prompt_vectors=VECTORS)
    assert backbone.prompt is not None
    one, two = torch.ones(2, 64), torch.zeros(3, 64)
    found = embed_pieces(backbone, [[5, 6], Slot(0), [7], Slot(1)], [one, two])
    tokens = backbone.embed(torch.tensor([5, 6, 7]))
    torch.testing.assert_close(found, torch.cat((tokens[:2], backbone.prompt, one, tokens[2:], two)))
    assert len(embed_pieces(backbone, [[5, 6]], [])) == 2


def test_vectors_start_as_those_of_tokens(tiny_base: Base) -> None:
    prompt = Backbone(tiny_base.model, prompt_vectors=VECTORS).prompt
    assert prompt is not None
    table = tiny_base.model.get_input_embeddings().weight
    assert all(bool((table == row).all(1).any()) for row in prompt)


def test_nothing_else_of_a_frozen_reader_is_trained(tiny_base: Base) -> None:
    assert [*trained(make_model(tuned(tiny_base), tiny_base))] == ["decoder.prompt"]


def test_a_press_of_prompt_vectors_is_saved_read_and_asked(
    tiny_base: Base, tiny_base_folder: Path, tmp_path: Path
) -> None:
    model = make_model(tuned(tiny_base), tiny_base)
    export_press(tmp_path / "press", model, model.config)
    loaded, _, _ = load_model(tmp_path / "press", base=tiny_base_folder, dtype="float32", device="cpu")
    assert model.decoder.prompt is not None
    assert loaded.decoder.prompt is not None
    torch.testing.assert_close(loaded.decoder.prompt, model.decoder.prompt, atol=1e-2, rtol=1e-2)  # bfloat16
    press = Press(loaded, tiny_base, None, "ab")
    latents = press.compress(TEXT)
    answer = press.ask(latents, QUESTION, max_new_tokens=6)
    session = press.session(latents)
    assert session.ask(QUESTION, max_new_tokens=6) == answer
    assert session.tokens == len(press._reader.opening(1)[0]) + VECTORS + len(latents)  # type: ignore[arg-type]
    with torch.no_grad():
        loaded.decoder.prompt += F.normalize(torch.randn_like(loaded.decoder.prompt)) * 20
    assert press.ask(latents, QUESTION, max_new_tokens=6) != answer


def test_vectors_count_where_room_is_counted(tiny_base: Base) -> None:
    press = Press(make_model(tuned(tiny_base), tiny_base), tiny_base, None, "ab")
    latents = press.compress(TEXT)
    beside = press._reader.positions([*press._reader.opening(1), press._reader.request(QUESTION)], latents=[latents])
    room = tiny_base.max_positions - beside
    press.ask(latents, QUESTION, max_new_tokens=1)
    with pytest.raises(ContextTooLongError, match=f"takes {beside} positions and the answer up to {room + 1}"):
        press.ask(latents, QUESTION, max_new_tokens=room + 1)


def test_fewer_than_no_vectors_are_refused(tiny_base: Base) -> None:
    with pytest.raises(PressError, match="prompt_vectors is -1, it must be at least 0"):
        config_for(tiny_base, prompt_vectors=-1)
