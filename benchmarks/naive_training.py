"""What a training step is compared with: one question per encoding, and logits at every position.

Both ways of it give the loss that packed rows give (a test), on the same model with the same fused layers:

- `padding-free`: the rows of the questions lie end to end, in the library's own attention. What is missing is only that
  questions share their context, and that logits are computed where there is a label.
- `padded`: what common code does. Every row is padded to the longest, in the encoder and in the decoder, with padding
  masks and PyTorch's scaled_dot_product_attention.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from latentpress.attention import Layout, Visibility
from latentpress.backbone import Backbone
from latentpress.compressors import Added, Size
from latentpress.data.rows import Example
from latentpress.decoder.generate import embed_pieces
from latentpress.model import Encoded, PressModel
from latentpress.training.objective import document_latents, pack

IGNORED = -100
"""Label of positions without one, as in PyTorch and transformers."""


def one_question_each(examples: Sequence[Example]) -> list[Example]:
    """A row for each question, with a copy of its context."""
    return [dataclasses.replace(example, branches=(branch,)) for example in examples for branch in example.branches]


def padding_free_loss(model: PressModel, examples: Sequence[Example], size: Size) -> Tensor:
    """Summed token loss of rows of one question each, logits at every position."""
    latents, _ = document_latents(model, examples, size)
    embeddings, layout, at, labels = pack(model.decoder, examples, latents)
    states = model.decoder(embeddings, layout)
    every = torch.full((len(states),), IGNORED).index_copy(0, at, labels)
    return _loss(model, states, every)


def padded_loss(model: PressModel, examples: Sequence[Example], size: Size) -> Tensor:
    """The same in a padded batch; every example has one document of one window.

    Raises:
        ValueError: one has more, there is no encoder, or latents are cache entries.
    """
    one_window = all(len(example.windows) == 1 for example in examples)
    if model.encoder is None or model.decoder.rotation is not None or not one_window:
        raise ValueError(
            "the padded batch is written for an encoder, latents that are input embeddings, and one window an example"
        )
    device = model.decoder.device
    texts = [torch.tensor((*example.windows[0], model.eos), device=device) for example in examples]
    states = _padded_pass(model.encoder, [model.encoder.embed(text) for text in texts], model.compressor.visibility)
    real = torch.cat([row[: len(text) - 1] for row, text in zip(states, texts, strict=True)])
    lengths = tuple(len(text) - 1 for text in texts)
    nothing = Added(states=real[:0], counts=(0,) * len(texts))
    parts = tuple(map(model.compressor.parts, lengths))
    encoded = Encoded(torch.cat([text[:-1] for text in texts]), lengths, parts, real, nothing, None)
    made = model.latents(encoded, size)
    rows, labels = [], []
    for example, vectors in zip(examples, made.vectors.split(made.counts), strict=True):
        (branch,) = example.branches
        row = embed_pieces(model.decoder, [*example.prefix, list(branch.ids)], [vectors])
        rows.append(row)
        targets = torch.tensor(branch.ids[branch.first_label :], device=device)
        labels.append(F.pad(targets, (len(row) - len(targets) - 1, 1), value=IGNORED))  # state i predicts token i + 1
    longest = max(map(len, rows))
    states = _padded_pass(model.decoder, rows, "causal")
    every = torch.cat([F.pad(one, (0, longest - len(one)), value=IGNORED) for one in labels])
    return _loss(model, states.flatten(0, 1), every)


def _padded_pass(backbone: Backbone, rows: Sequence[Tensor], visibility: Visibility) -> Tensor:
    """States `[B, T, D]` of rows padded on the right to the longest."""
    longest = max(map(len, rows))
    order = torch.arange(longest, device=rows[0].device)
    seen = (
        order[:, None] >= order
        if visibility == "causal"
        else torch.ones(longest, longest, dtype=torch.bool, device=order.device)
    )
    masks = tuple(seen & (order < len(row)) for row in rows)
    padded = torch.cat([F.pad(row, (0, 0, 0, longest - len(row))) for row in rows])
    layout = Layout((longest,) * len(rows), order.repeat(len(rows)), masks, backend="sdpa")
    states: Tensor = backbone(padded, layout)
    return states.view(len(rows), longest, -1)


def _loss(model: PressModel, states: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(model.decoder.logits(states), labels, ignore_index=IGNORED, reduction="sum")
