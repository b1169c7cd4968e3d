"""Training steps with torch.compile: the same steps, the same losses, and what is said of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import compiled
from benchmarks.compiled import COMPILED, PLAIN, measure, rows_of, told


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # of the tracer itself
def test_the_same_steps_have_the_same_losses(tiny_press_folder: Path) -> None:
    # The backend "eager" traces and compiles nothing: no C++ compiler is needed here.
    found = measure(str(tiny_press_folder), steps=3, rounds=2, backend="eager")
    assert found["networks"] == 2 + 3  # encoder and decoder of the tiny press
    assert {side: len(seconds) for side, seconds in found["seconds"].items()} == {PLAIN: 2, COMPILED: 2}
    assert found["loss"] > 1
    assert found["loss_difference"] < 0.01 * found["loss"]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # of the tracer itself
def test_a_press_whose_decoder_encodes_has_its_networks_counted_once(tmp_path: Path, tiny_base_folder: Path) -> None:
    from cli.helpers import write_tiny_press

    import latentpress

    settings = {"compressor": "kv-pooling", "residual": "none", "encoder_layers": None, "encoder_lora": None}
    folder = write_tiny_press(tmp_path / "entries", tiny_base_folder, **settings)
    press = latentpress.load(folder, device="cpu", dtype="float32")
    assert compiled.compile_networks(press, backend="eager") == 3


def test_steps_have_other_lengths(tiny_press_folder: Path) -> None:
    import latentpress

    press = latentpress.load(tiny_press_folder, device="cpu", dtype="float32")
    assert [len(step) for step in rows_of(press, 5)] == [1, 2, 3, 1, 2]


def test_what_repays_itself_is_told() -> None:
    one = {
        "networks": 5,
        "steps": 6,
        "ratio": {"median": 0.9, "low": 0.8, "high": 1.0, "runs": 4},
        "compiling": 60.4,
        "loss_difference": 0.00123,
        "loss": 2.5,
    }
    lines = told({**one, "repaid_after_steps": 1234.5}).splitlines()
    assert lines[0].endswith("0.90 of the time without (0.80 to 1.00 in 4 rounds of 6 steps)")
    assert lines[1] == "60 seconds to compile, repaid after 1,234 steps"
    assert "repaid after no number of steps" in told({**one, "repaid_after_steps": None})


@pytest.mark.parametrize("given", [["--steps", "0"], ["--rounds", "0"]])
def test_what_cannot_be_measured_is_refused(given: list[str]) -> None:
    with pytest.raises(SystemExit, match="must be 1 or more"):
        compiled.main(given)
