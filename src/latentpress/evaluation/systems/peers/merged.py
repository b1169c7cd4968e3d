"""A trained reader as an ordinary model folder: its decoder's adapter merged into the base weights, W + s B A.

$LATENTPRESS_CACHE or ~/.cache/latentpress
└── readers/
    └── <base>-<fingerprint>-<dtype>/     complete or absent: it gets its name by one rename
"""

from __future__ import annotations

from pathlib import Path

import torch

from latentpress.base_model import cache_root
from latentpress.errors import InputError
from latentpress.files import put_in_place, staging_beside
from latentpress.lora import LoraLinear
from latentpress.press import Press


def merged_folder(press: Press) -> Path:
    """The folder of a press's decoder as a model of its base's architecture; written unless it is there.

    Weights have the type that the base was loaded in; the sum is rounded to it once.

    Args:
        press: a reader of text.

    Raises:
        InputError: its decoder has learned vectors in its prompt, which no model folder holds, or the folder cannot be
            written.
    """
    if press.model.decoder.prompt is not None:
        raise InputError(
            f"press {press.config.name!r} reads with learned vectors in its prompt (prompt tuning), which a peer's own "
            "reading cannot take; give a reader with an adapter (recipe reader)"
        )
    dtype = str(press.model.decoder.dtype).removeprefix("torch.")
    folder = cache_root() / "readers" / f"{press.base.fingerprint[:12]}-{press.fingerprint[:12]}-{dtype}"
    if folder.is_dir():
        return folder
    try:
        with staging_beside(folder) as staging:
            if not folder.is_dir():  # another process may have finished while this one waited
                press.base.model.save_pretrained(staging / "model", state_dict=merged_state(press))
                put_in_place(staging / "model", folder)
    except OSError as error:
        raise InputError(
            f"cannot write the merged reader {folder}: {error}; "
            "free some space or point LATENTPRESS_CACHE at a folder that can be written"
        ) from error
    return folder


@torch.no_grad()
def merged_state(press: Press) -> dict[str, torch.Tensor]:
    """Weights of a press's decoder under the names of its base model."""
    decoder = press.base.model.get_decoder()
    prefix = next(name for name, module in press.base.model.named_modules() if module is decoder)
    state = dict(press.base.model.state_dict())
    for name, layer in press.model.decoder.body.named_modules():
        if isinstance(layer, LoraLinear):
            state[f"{prefix}.{name}.weight"] = layer.sum_of_weights()
    return state
