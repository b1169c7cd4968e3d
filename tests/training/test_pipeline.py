"""Phases follow each other, each from the press of the one before; one command starts them and goes on with them."""

from __future__ import annotations

import dataclasses
import gc
import json
import shutil
import signal
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from latentpress.checkpoints import io
from latentpress.checkpoints.io import read_config, read_press
from latentpress.errors import DataError, InputError, TrainingError
from latentpress.training import pipeline, run, trainer
from latentpress.training.checkpoint import checkpoints
from latentpress.training.overrides import make_recipe
from latentpress.training.pipeline import phase_names, plan
from latentpress.training.recipes import PIPELINES, RECIPES, Recipe
from training.helpers import SETTINGS, assert_complete, half_a_swap, in_processes, killing, read_log, write_data

LEFT_OUT = ("encoder_", "decoder_", "quote_schedule", "ratio_schedule")
TINY = {name: value for name, value in SETTINGS.items() if not name.startswith(LEFT_OUT)} | {
    "compressor_settings.segment_tokens": "16",
    "compressor_settings.query_width": "8",
    "ntp.max_context_tokens": "24",
    "ntp.continue_tokens": "6",
    "ntp.steps": "4",
    "sft.steps": "5",
    "log_every": "1",
    "eval_every": "3",
    "save_every": "2",
}
Phases = Callable[..., Path]


def tiny(*changes: str) -> list[str]:
    return [*(f"{name}={value}" for name, value in TINY.items()), *changes]


def planned(*overrides: str, out: Path = Path("out"), data: Sequence[str] = ("d",), **given: Any) -> Any:
    return plan("comprexit", data=data, out=out, overrides=overrides, **{"dev": None, "from_press": None, **given})


@pytest.fixture
def phases(train: object, data: Path, tiny_base_folder: Path, tmp_path: Path) -> Phases:
    """Trains both phases, tiny, as the fixture `train` does; returns what `train` returns."""

    def start(out: str = "run", *changes: str, **arguments: Any) -> Path:
        given = {"data": [str(data)], "base": str(tiny_base_folder), **arguments}
        return run.train("comprexit", out=tmp_path / out, overrides=tiny(*changes), **given)

    return start


# The plan


def test_phases_of_every_pipeline_are_recipes_and_no_phase_is_named_like_a_setting() -> None:
    settings = {field.name for field in dataclasses.fields(Recipe)}
    assert not {*PIPELINES} & {*RECIPES}
    for name, recipes in PIPELINES.items():
        assert set(recipes) <= {*RECIPES}
        names = phase_names(name)
        assert len({*names} - settings) == len(recipes) > 1
        assert not {*names} & {"press", *pipeline._FILES}
    assert not settings & {*pipeline._FILES}
    assert phase_names("comprexit") == ("ntp", "sft")


def test_the_phases_of_comprexit_are_those_of_the_paper() -> None:
    ntp, sft = planned()
    assert (ntp.recipe.recipe, sft.recipe.recipe) == ("comprexit-ntp", "comprexit-sft")
    for recipe in (ntp.recipe, sft.recipe):
        assert (recipe.compressor, recipe.policy, recipe.residual) == ("comprexit", "fixed", "none")
        assert recipe.encoder_lora is recipe.decoder_lora is recipe.encoder_layers is None
        assert (recipe.candidates, recipe.clip, recipe.quotes) == ((2, 4, 8, 16, 32), 20.0, 0)
        assert recipe.warmup_steps == recipe.steps // 20
    assert (ntp.recipe.max_context_tokens, ntp.recipe.continue_tokens, ntp.recipe.questions) == (512, 128, 0)
    assert (sft.recipe.continue_tokens, sft.recipe.questions) == (0, 5)
    assert (ntp.out, sft.out, sft.from_press) == (Path("out/ntp"), Path("out/sft"), Path("out/ntp/press"))
    assert (ntp.press, sft.press) == (Path("out/ntp/press"), Path("out/press"))
    assert planned(from_press="p")[0].from_press == Path("p")


def test_an_override_is_for_all_phases_or_for_the_one_it_names() -> None:
    ntp, sft = planned("ntp.steps=100", "steps=50", "sft.decoder_lora.rank=4", "seed=3", "sft.prompt.context= C. ")
    assert (ntp.recipe.steps, sft.recipe.steps) == (100, 50)  # its own wins, wherever it stands
    assert (ntp.recipe.seed, sft.recipe.seed) == (3, 3)
    assert ntp.recipe.decoder_lora is None
    assert sft.recipe.decoder_lora is not None
    assert ntp.meant == {"steps", "seed"}
    assert sft.meant == {"steps", "seed", "decoder_lora", "prompt"}
    assert (ntp.recipe.prompt.context, sft.recipe.prompt.context) == ("Context: ", " C. ")


def test_a_phase_may_have_files_of_its_own(tmp_path: Path) -> None:
    one, two = (str(write_data(tmp_path / name, 2)) for name in ("one.jsonl", "two.jsonl"))
    ntp, sft = planned("ntp.data=a", "ntp.data=b", "ntp.dev=none", f"sft.dev={one}", data=["d", "e"], dev="f")
    assert (ntp.data, ntp.dev) == (("a", "b"), None)
    assert (sft.data, sft.dev) == (("d", "e"), one)
    ntp, sft = planned(f"sft.data={two}", dev="f")
    assert (ntp.data, ntp.dev, sft.data, sft.dev) == (("d",), "f", (two,), "f")
    with pytest.raises(DataError, match="no such file"):
        planned(f"sft.data={tmp_path / 'missing.jsonl'}")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stf.steps=1"], r"'stf\.steps=1': pipeline 'comprexit' has no phase 'stf'; choose one of ntp, sft, or write"),
        (["sft=1"], r"'sft=1' names a phase and no setting of it; write sft\.steps=1000"),
        (["stepz=1"], "recipe 'comprexit-ntp' has no setting 'stepz'"),
        (["sft.stepz=1"], "recipe 'comprexit-sft' has no setting 'stepz'"),
        (["sft.steps=0"], "steps=0 must be 1 or more"),
        (["sft.steps"], "'steps' is not name=value"),
        (["data=x.jsonl"], "has no setting 'data'"),
        (["steps.inner=8"], "steps has no inner settings"),
        (
            ["ntp.compressor_settings.segment_tokens=64", "ntp.residual=mean"],
            r"phase sft cannot start .* phase ntp: compressor_settings is \{'segment_tokens': 64\} there, \{\} here; "
            r"residual is 'mean' there, 'none' here; give settings of the press as NAME=VALUE, for all phases",
        ),
        (["ntp.prompt.context=C"], r"phase sft cannot start .*: prompt is PromptSettings\("),
        (["ntp.decoder_lora.rank=4"], r"phase sft cannot start .*: decoder_lora is LoraSettings\(.*\) there, None"),
    ],
)
def test_mistakes_in_a_phase_are_named_before_the_first_one_runs(overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        planned(*overrides)


def test_an_unknown_name_is_told_recipes_and_pipelines() -> None:
    with pytest.raises(InputError, match=r"recipe 'fast' is unknown; choose one of semidynamic, .*, comprexit"):
        plan("fast", data=[], dev=None, out=Path("out"), overrides=[], from_press=None)


def test_runs_that_are_in_the_way_are_refused_before_the_first_phase_takes_its_hours(tmp_path: Path) -> None:
    (tmp_path / "sft" / "checkpoint-7").mkdir(parents=True)
    with pytest.raises(TrainingError, match=r"sft holds a run at checkpoint-7, and .*ntp, .* none .* step 3; remove"):
        planned("ntp.steps=3", out=tmp_path)
    (tmp_path / "ntp" / "checkpoint-2").mkdir(parents=True)
    with pytest.raises(TrainingError, match="sft holds a run at checkpoint-7"):
        planned("ntp.steps=3", out=tmp_path)
    (tmp_path / "ntp" / "checkpoint-3").mkdir()
    assert len(planned("ntp.steps=3", out=tmp_path)) == 2
    (tmp_path / "checkpoint-1").mkdir()
    with pytest.raises(TrainingError, match=r"holds a run of one recipe, at checkpoint-1; give another folder for"):
        planned("ntp.steps=3", out=tmp_path)


# The runs


def test_the_second_phase_starts_from_the_press_of_the_first(
    phases: Phases, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert phases() == out / "press"
    assert sorted(path.name for path in out.iterdir()) == ["ntp", "press", "sft"]
    shown = capfd.readouterr().err
    assert shown.index("phase 1 of 2, ntp: recipe comprexit-ntp") < shown.index("phase 2 of 2, sft: recipe comprexit-s")
    ntp, sft, press = (read_config(folder) for folder in (out / "ntp/press", out / "sft/press", out / "press"))
    assert press == sft
    assert press[0].name == "comprexit-smollm2-135m"
    assert press[0].trained["after"] == ntp[0].trained
    assert json.loads((out / "sft/run.json").read_text())["from_press"] == ntp[2]
    losses = {name: [line for line in read_log(out / name) if "loss" in line] for name in ("ntp", "sft")}
    assert [len(lines) for lines in losses.values()] == [4, 5]
    assert all("continuation" in line and "answer" not in line for line in losses["ntp"])
    assert any("answer" in line for line in losses["sft"])
    assert not any("continuation" in line for line in losses["sft"])


def test_a_finished_training_returns_at_once_and_changes_nothing(
    phases: Phases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    press = phases()
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with monkeypatch.context() as patched:
        patched.setattr(trainer, "row_loss", None)  # nothing is computed
        patched.setattr(io, "_swap", None)  # nothing is copied
        assert phases() == press
    assert {path: path.read_bytes() for path in before} == before
    shutil.rmtree(press)
    assert phases() == press
    assert {path: path.read_bytes() for path in before} == before
    with pytest.raises(TrainingError, match="ntp holds a run at step 4; resume it"):
        phases(resume=False)


# Where a process dies, and what it leaves behind; forward passes are counted, so those of evaluations too.
KILLS: dict[str, tuple[Callable[[], Any], str]] = {
    "in the first phase": (lambda: killing(trainer, "row_loss", call=4), "ntp/checkpoint-2"),
    "at the end of the first phase": (lambda: killing(run, "_run", before=run._run), "ntp/checkpoint-4"),
    "between the phases": (lambda: killing(run, "_run", call=2), "sft/run.json"),
    "in the second phase": (lambda: killing(trainer, "row_loss", call=4), "sft/checkpoint-2"),
    "before the copy": (lambda: killing(pipeline, "copy_press"), "sft/press"),
    "in the copy": (lambda: killing(shutil, "copytree", before=shutil.copytree), ".press.*.partial/config.json"),
}


def test_killed_anywhere_the_same_command_ends_where_an_uninterrupted_one_does(phases: Phases, tmp_path: Path) -> None:
    whole, out = phases("whole"), tmp_path / "killed"
    for place, (deadly, left_behind) in KILLS.items():

        def attempt(deadly: Callable[[], Any] = deadly) -> None:
            torch.set_num_threads(1)
            with deadly():
                phases("killed")

        assert in_processes([attempt]) == [-signal.SIGKILL], place
        assert list(out.glob(left_behind)), place
        assert not (out / "press").exists()
        for run_folder in out.glob("[ns]*"):
            assert_complete(run_folder)
    press = phases("killed")
    assert sorted(path.name for path in out.iterdir()) == ["ntp", "press", "sft"]
    assert read_press(press)[3] == read_press(whole)[3]  # the fingerprint is of all files
    for name in ("ntp", "sft"):
        assert read_log(out / name) == read_log(tmp_path / "whole" / name)


def test_half_a_swap_of_the_copy_is_undone(phases: Phases, tmp_path: Path) -> None:
    press = phases()
    fingerprint = read_press(press)[3]
    half_a_swap(press, press)
    assert not press.exists()
    assert read_press(phases())[3] == fingerprint
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["ntp", "press", "sft"]


def test_minutes_are_for_both_phases_together(
    phases: Phases, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole, out = phases("whole"), tmp_path / "stopped"
    for step in (1, 2, 3):
        capfd.readouterr()
        assert phases("stopped", minutes=1e-9) == out / "ntp" / "press"
        assert f"time is up at step {step} of 4 in phase 1 of 2, ntp; the same command" in capfd.readouterr().err
        assert checkpoints(out / "ntp")[-1][0] == step
        assert sorted(path.name for path in out.iterdir()) == ["ntp"]
    assert phases("stopped", minutes=1e-9) == out / "press"  # the last step of one, the first of the other
    assert "time is up at step 1 of 5 in phase 2 of 2, sft" in capfd.readouterr().err
    assert checkpoints(out / "ntp")[-1][0] == 4
    assert checkpoints(out / "sft")[-1][0] == 1
    assert read_press(out / "press")[3] == read_press(out / "sft" / "press")[3]
    assert read_press(phases("stopped", minutes=10))[3] == read_press(whole)[3]


def test_each_phase_reads_its_own_files(phases: Phases, tmp_path: Path) -> None:
    texts, dev = tmp_path / "texts.jsonl", write_data(tmp_path / "dev.jsonl", 4, seed=5)
    texts.write_text("".join(json.dumps({"text": "the treaty was signed in Paris " * n}) + "\n" for n in range(3, 30)))
    press = phases("own", f"ntp.data={texts}", "ntp.dev=none", dev=str(dev))
    config = read_config(press)[0]
    assert config.trained["data"] == ["records.jsonl"]
    assert config.trained["records"] == 20
    assert config.trained["after"]["data"] == ["texts.jsonl"]


def test_another_recipe_of_a_later_phase_is_refused_where_its_run_is(phases: Phases) -> None:
    phases()
    with pytest.raises(TrainingError, match=r"sft holds a run with other settings: recipe\.steps was 5, is 6"):
        phases("run", "sft.steps=6")


def test_the_decoder_may_get_an_adapter_in_the_second_phase(phases: Phases, capfd: pytest.CaptureFixture[str]) -> None:
    config, _, adapters, _ = read_press(phases("run", "sft.decoder_lora.rank=2", "sft.learning_rate=1e-2"))
    assert config.decoder_lora is not None
    assert config.trained["after"]["recipe"]["decoder_lora"] is None
    assert any(tensor.any() for name, tensor in adapters["decoder"].items() if "lora_B" in name)
    assert "the press that this starts from has none of the decoder; a new one starts at zero" in capfd.readouterr().err


def test_the_first_phases_model_is_gone_when_the_second_one_is_made(
    phases: Phases, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[Any]] = []
    real = run.new_press

    def noted(*args: Any) -> Any:
        assert all(reference() is None for reference in made)
        press = real(*args)
        made.append(weakref.ref(press))
        return press

    monkeypatch.setattr(run, "new_press", noted)
    gc.collect()
    phases()
    assert len(made) == 2


def test_settings_of_a_plan_are_those_of_the_recipe_alone() -> None:
    alone = plan("reader", data=["d"], dev="v", out=Path("o"), overrides=["steps=3"], from_press="p")
    assert [(one.recipe, one.out, one.press) for one in alone] == [
        (make_recipe("reader", ["steps=3"]), Path("o"), Path("o/press"))
    ]
    assert (alone[0].data, alone[0].dev, alone[0].from_press, alone[0].meant) == (("d",), "v", Path("p"), {"steps"})
