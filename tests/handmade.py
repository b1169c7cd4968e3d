"""Prompts and answers made by hand, to compare the library with; presses written to folders as training writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from latentpress.attention import Layout
from latentpress.lora import LoraLinear

if TYPE_CHECKING:
    from latentpress.backbone import Backbone, Base
    from latentpress.model import PressModel
    from latentpress.press import Press

TEXT = (
    "The treaty was signed in Paris on the first day of May by a fox, a dog and the mayor. Words were written into a "
    "document: 17 pages, 3 seals.\n"
    "In the beginning there was nothing. 日本語 and naïve emoji 👩‍👩‍👧 were added later on."
)
OTHER_TEXT = "A second document says that the dog signed nothing, and that the fox was elsewhere that day."
QUESTION = "Who signed the treaty?"


class Template(str):
    """Part of a prompt that belongs to the chat template, where special tokens are meant."""

    __slots__ = ()

    def __add__(self, other: str) -> Template:
        return Template(str(self) + str(other))


BEFORE = Template("<|im_start|>system\n<|im_end|>\n<|im_start|>user\n")
AFTER = Template("<|im_end|>\n<|im_start|>assistant\n")


def sharpen_head(model: PressModel, factor: float = 30.0) -> PressModel:
    """Spreads what the selector's head predicts, so that windows of one text get different ratios."""
    assert model.head is not None
    with torch.no_grad():
        for parameter in model.head.parameters():
            if parameter.ndim == 2:
                parameter.mul_(factor)
    return model


def ids_of(base: Base, text: str) -> list[int]:
    """Token ids of a piece of a prompt, special tokens meant in a `Template` only."""
    plain = not isinstance(text, Template)
    return list(base.tokenizer(str(text), add_special_tokens=False, split_special_tokens=plain)["input_ids"])


def prompt_of(press: Press, parts: Sequence[str | Tensor], *, backbone: Backbone | None = None) -> Tensor:
    """Input embeddings `[T, D]` of a prompt given as templates, texts and latents."""
    backbone = backbone or press.model.decoder
    rows = []
    for part in parts:
        if isinstance(part, str):
            rows.append(backbone.embed(torch.tensor(ids_of(press.base, part))))
        else:
            rows.append(part.to(backbone.dtype))
    return torch.cat(rows)


@torch.no_grad()
def greedy(press: Press, prompt: Tensor, tokens: int, *, backbone: Backbone | None = None) -> str:
    """Answer by reading everything again for each token; no cache, no batch."""
    backbone = backbone or press.model.decoder
    ids: list[int] = []
    for _ in range(tokens):
        states = backbone(prompt, Layout.of((len(prompt),), "causal"))
        ids.append(int(backbone.logits(states[-1:]).argmax()))
        if ids[-1] == press.base.tokenizer.eos_token_id:
            ids.pop()
            break
        prompt = torch.cat((prompt, backbone.embed(torch.tensor(ids[-1:]))))
    return str(press.base.tokenizer.decode(ids, skip_special_tokens=True))


def save_press(model: PressModel, folder: Path) -> Path:
    """Writes a press folder."""
    from latentpress.checkpoints.io import write_press

    settings = {"encoder": model.config.encoder_lora, "decoder": model.config.decoder_lora}
    adapters = {}
    for role, state in model.adapter_states().items():
        tree = getattr(model, role)
        names = [name for name, layer in tree.body.named_modules() if isinstance(layer, LoraLinear)]
        adapters[role] = (state, settings[role], names, tree.depth)
    write_press(folder, model.config, model.own_state(), adapters)
    return folder
