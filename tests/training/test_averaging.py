"""The mean of presses."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tiny import config_for, make_model

from latentpress.checkpoints.io import read_press
from latentpress.errors import PressError
from latentpress.training.averaging import average
from latentpress.training.checkpoint import export_press

if TYPE_CHECKING:
    from latentpress.backbone import Base

KINDS: list[dict[str, Any]] = [
    {},
    {"compressor": "kv-pooling", "residual": "none", "encoder_lora": None, "encoder_layers": None},
]


@pytest.mark.parametrize("changes", KINDS, ids=["embeddings", "entries"])
def test_every_weight_is_the_mean(
    tiny_base: Base, tiny_base_folder: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    config = config_for(tiny_base, **changes)
    for name, shift in (("a", 0.25), ("b", -0.5), ("c", 1.0)):
        model = make_model(config, tiny_base)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter += shift
        export_press(tmp_path / name, model, dataclasses.replace(config, name=name, trained={"step": name}))
    folders = [tmp_path / name for name in "abc"]
    average(folders, tmp_path / "mean", base=tiny_base_folder)
    made, modules, adapters, _ = read_press(tmp_path / "mean")
    read = [read_press(folder) for folder in folders]
    assert made.name == "a"
    assert [one["step"] for one in made.trained["mean_of"]] == ["a", "b", "c"]
    assert [one["fingerprint"] for one in made.trained["mean_of"]] == [fingerprint for *_, fingerprint in read]
    pairs = [(modules, [own for _, own, _, _ in read])]
    pairs += [(adapters[role], [states[role] for _, _, states, _ in read]) for role in adapters]
    assert adapters.keys() == read[0][2].keys()
    for mean, parts in pairs:
        assert mean
        for name, tensor in mean.items():
            expected = sum(part[name].float() for part in parts) / 3
            torch.testing.assert_close(tensor.float(), expected, rtol=1e-2, atol=1e-2)


def test_presses_that_have_no_mean_are_refused(tiny_base: Base, tiny_base_folder: Path, tmp_path: Path) -> None:
    for name, candidates in (("a", (2, 4)), ("b", (2, 8))):
        config = config_for(tiny_base, candidates=candidates)
        export_press(tmp_path / name, make_model(config, tiny_base), config)
    with pytest.raises(PressError, match=r"candidates is \(2, 4\) in one and \(2, 8\) in the other"):
        average([tmp_path / "a", tmp_path / "b"], tmp_path / "mean", base=tiny_base_folder)
    with pytest.raises(PressError, match="two presses or more, and 1 was given"):
        average([tmp_path / "a"], tmp_path / "mean", base=tiny_base_folder)
    assert not (tmp_path / "mean").exists()
