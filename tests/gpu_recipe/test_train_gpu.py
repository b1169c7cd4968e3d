"""The recipe for a GPU: in pieces, and after a kill, it gives the presses and scores that it gives at once."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from gpu_recipe.conftest import ROOT, TINY, Run
from latentpress.errors import InputError
from scripts import train_gpu, unpack_parts
from scripts.gpu_recipe.plan import read_plan

STAGES = ("reader", "press", "comprexit")
CACHE_ENTRIES = {"compressor": "kv-pooling", "residual": "none", "encoder_lora": None, "encoder_layers": None}


@pytest.fixture(scope="module")
def whole(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the plan makes in one piece."""
    out = tmp_path_factory.mktemp("whole") / "gpu"
    assert run(out) == train_gpu.DONE
    return out


def weights(out: Path) -> dict[str, bytes]:
    """Every weight file of every press."""
    found = [path for stage in STAGES for path in (out / stage / "press").rglob("*.safetensors")]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in found}


def test_a_plan_in_pieces_with_a_kill_gives_the_presses_and_scores_of_one_piece(
    run: Run, whole: Path, tmp_path: Path
) -> None:
    from training.helpers import in_processes, killing

    from latentpress.training.trainer import PressTrainer

    out = tmp_path / "gpu"
    assert run(out, "--minutes", "1e-9") == train_gpu.MORE
    state = json.loads((out / "state.json").read_text())
    assert state["reader"]["step"] == 1
    assert not state["reader"]["done"]

    def killed() -> None:
        with killing(PressTrainer, "training_step", call=4):  # in the second step of the second stage
            run(out)

    assert in_processes([killed]) == [-9]
    assert run(out, "--minutes", "1e-9") == train_gpu.MORE
    codes = [run(out, "--minutes", "1e-9") for _ in range(2)]
    assert codes == [train_gpu.MORE] * 2
    assert run(out) == train_gpu.DONE

    assert len(weights(whole)) == 7  # adapters of the reader, modules and adapters of the others
    assert weights(out) == weights(whole)
    scores = [json.loads((folder / "results.json").read_text())["scores"] for folder in (whole, out)]
    assert scores[0] == scores[1]
    assert {"full-tuned", "press-x4", "press-auto", "comprexit-x4"} == {*scores[0]}


def test_what_is_done_is_recognised_without_training_and_another_plan_is_refused(
    run: Run, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*.safetensors")}
    with pytest.MonkeyPatch.context() as patched:
        from scripts.gpu_recipe import stages

        patched.setattr(stages, "train", None)
        assert run(whole) == train_gpu.DONE
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*.safetensors")} == before
    assert [line.split(",")[0] for line in capsys.readouterr().out.splitlines()[1:]] == [
        *(f"{name}: done" for name in STAGES),
        "judge: done",
    ]
    other = tmp_path / "other.toml"
    other.write_text(TINY.read_text().replace('learning_rate = "2e-3"', 'learning_rate = "1e-3"', 1))
    assert run(whole, "--plan", str(other)) == train_gpu.MISTAKE
    assert f"stage reader is done in {whole} with other recipe; restore the plan" in capsys.readouterr().err


def test_a_stage_says_its_step_speed_and_share_of_the_peak(whole: Path) -> None:
    from scripts.gpu_recipe.speed import Pace

    found = json.loads((whole / "results.json").read_text())
    (piece,) = found["stages"]["press"]["pieces"]
    assert (piece["from"], piece["to"]) == (0, 3)
    pace = Pace(**piece["pace"])
    assert pace.steps == 2
    assert pace.tokens > pace.samples >= 2
    made_up = Pace(steps=10, seconds=4.0, samples=600, tokens=160_000, operations=4e13, peak_bytes=0)
    assert made_up.line(1000.0) == (
        "150 samples/s, 40,000 tokens/s, 10 TFLOP/s (1% of 1000), 0.4 s a step, floor 0.004 s"
    )
    assert "give --peak-tflops" in made_up.line(None)


def test_scores_are_told_in_points_with_their_intervals() -> None:
    from scripts.gpu_recipe.judging import lines

    headline = {"mean": 0.5, "low": 0.25, "high": 0.751, "n": 6}
    assert lines({"press-x4": {"squad": {"headline": headline}}}) == ["press-x4: squad 50.0 (25.0 to 75.1)"]
    few = {"mean": 0.5, "low": None, "high": None, "n": 6}
    assert lines({"press-x4": {"squad": {"headline": few}}}) == ["press-x4: squad 50.0"]


def test_the_peak_of_a_chip_is_known_by_its_name_or_given() -> None:
    from scripts.gpu_recipe.speed import peak_tflops

    assert peak_tflops(None, "NVIDIA H100 80GB HBM3") == 989
    assert peak_tflops(None, "NVIDIA H100 PCIe") == 756
    assert peak_tflops(None, "cpu") is None
    assert peak_tflops(2.5, "NVIDIA H200") == 2.5


def test_what_comes_back_are_the_presses_in_parts_within_the_limits(
    run: Run, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from latentpress.checkpoints.io import read_press

    there, here = tmp_path / "there", tmp_path / "here"
    arguments = ["--minutes", "0", "--collect", str(there), "--part-mib", "0.1"]
    assert run(whole, *arguments, "--collect-files", "2") == train_gpu.MISTAKE
    assert "MiB are let through; give collect = false" in capsys.readouterr().err
    assert run(whole, *arguments) == train_gpu.DONE
    assert 2 < len([*there.iterdir()]) <= 8
    assert max(path.stat().st_size for path in there.iterdir()) <= 0.1 * 2**20
    assert unpack_parts.main([str(there), "--into", str(here)]) == 0
    assert weights(here) == weights(whole)
    assert read_press(here / "comprexit" / "press")[0].compressor == "comprexit"
    assert json.loads((here / "results.json").read_text())["scores"]


def test_the_plan_that_ships_is_one_that_can_be_trained() -> None:
    from latentpress.training.overrides import make_recipe

    plan = read_plan(ROOT / "configs" / "train-gpu.toml")
    for stage in plan.stages:
        assert make_recipe(stage.recipe, stage.settings).steps > 0
    assert "qa/dev/squad.jsonl.xz" in plan.files()


@pytest.mark.parametrize("changes", [{}, CACHE_ENTRIES], ids=["embeddings", "cache entries"])
def test_counted_operations_are_what_pytorch_counts_at_least(tiny_base: Any, changes: dict[str, Any]) -> None:
    from tiny import config_for, make_model
    from torch.utils.flop_counter import FlopCounterMode

    from latentpress.compressors import Ratio
    from latentpress.data.records import Record
    from latentpress.data.rows import ExampleMaker
    from latentpress.training.objective import row_loss
    from scripts.gpu_recipe.speed import operations

    config = config_for(tiny_base, **changes)
    model = make_model(config, tiny_base).train()
    maker = ExampleMaker(tiny_base.tokenizer, config.prompt, config.window_tokens)
    record = Record(
        id="0",
        contexts=("The treaty was signed in Paris on the first day of May. " * 4,),
        qas=(),
        summary="The treaty was signed.",
        short_summary=None,
        source="",
        lang=None,
    )
    rows = [maker.example([maker.tokenize(record)], random.Random(0), questions=0, quotes=2, quote_tokens=12)]
    with FlopCounterMode(display=False) as counter:
        row_loss(model, rows, Ratio(4)).lm.backward()
    counted = operations(model, rows, Ratio(4), imitates=False)
    assert 0.6 * counter.get_total_flops() < counted <= 1.02 * counter.get_total_flops()


def test_steps_are_chosen_by_what_they_cost_before_and_after_a_teacher_has_predicted() -> None:
    from scripts.gpu_recipe.fitting import Cost, cost_of

    # 40 records of 400; 10 a step: 4 steps of a pass over the sample, 40 over all.
    cost = cost_of([(9.0, 10), *[(2.0, 10)] * 3, *[(0.5, 10)] * 8], records=40, share=0.1)
    assert (cost.first, cost.later, cost.epoch) == (2.0, 0.5, 40)
    assert cost.steps(60 / 60) == 30  # a minute is not enough for a pass
    assert cost.steps(100 / 60) == 40 + 40
    assert Cost(first=1e9, later=1.0, epoch=10).steps(1) == 1


def test_minutes_become_steps_that_stay(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scripts.gpu_recipe import fitting

    monkeypatch.setattr(fitting, "_SECONDS", 0.0)  # one step tells enough here
    plan = tmp_path / "plan.toml"
    head, _, _ = TINY.read_text().partition('[[stage]]\nname = "press"')
    plan.write_text(head.replace("steps = 3\n", "").replace('recipe = "reader"', 'recipe = "reader"\nminutes = 1e-9'))
    out = tmp_path / "gpu"
    assert run(out, "--plan", str(plan)) == train_gpu.DONE
    state = json.loads((out / "state.json").read_text())["reader"]
    assert state["steps"] == state["step"] == 1
    assert state["cost"]["first"] > 0
    assert not (out / "probe").exists()


def test_training_waits_for_parts_that_are_missing(run: Run, parcel: Path, tmp_path: Path) -> None:
    (parcel / "part-001.bin").unlink()
    files = ["--parcel", str(parcel), "--files", str(tmp_path / "into")]
    assert run(tmp_path / "gpu", *files) == train_gpu.INCOMPLETE
    assert not (tmp_path / "gpu").exists()


# Plans


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('recipe = "reader"', 'recipe = "reader"\nlr = 1', "stage 1 has the unknown key lr; choose from name, recipe"),
        ('name = "press"', 'name = "reader"', "two stages called 'reader'"),
        ('teacher = "{reader}"', 'teacher = "{judge}"', r"stage press: \{judge\} is no stage before it"),
        ('recipe = "reader"', 'recipe = "reader"\nminutes = 5', "stage 1 has both minutes and steps"),
        ('name = "reader"', 'name = "probe"', "stage 1 is called 'probe'"),
        ('data = ["squad_sample.jsonl"]\n\n[[', "[[", "stage 1 has no data"),
        ("limit = 6", 'limit = "6"', "judge: limit = '6' must be int"),
        ('reader = "reader"', 'reader = "tuned"', "reader = 'tuned' is no stage; choose from reader, press, comprexit"),
    ],
)
def test_a_plan_with_a_mistake_is_refused_by_what_it_is(tmp_path: Path, before: str, after: str, message: str) -> None:
    text = TINY.read_text()
    assert before in text
    (tmp_path / "plan.toml").write_text(text.replace(before, after, 1))
    with pytest.raises(InputError, match=message):
        read_plan(tmp_path / "plan.toml")


def test_missing_files_and_presses_are_found_before_the_first_stage_trains(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(TINY.read_text().replace('recipe = "semidynamic"', 'recipe = "semidynamic"\nfrom_press = "nobody"'))
    assert run(tmp_path / "a", "--plan", str(plan)) == train_gpu.MISTAKE
    assert "no press 'nobody'" in capsys.readouterr().err
    plan.write_text(TINY.read_text().replace('recipe = "comprexit-tuned"', 'recipe = "comprexit-tuned"\ndev = "no.xz"'))
    assert run(tmp_path / "b", "--plan", str(plan)) == train_gpu.MISTAKE
    assert "there is no no.xz in" in capsys.readouterr().err
    assert not (tmp_path / "a" / "reader").exists()
    assert not (tmp_path / "b" / "reader").exists()
