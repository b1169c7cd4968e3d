"""Every ratio policy can be trained, is evaluated at its own sizes, and its press compresses and answers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import config_for, make_model

from latentpress.backbone import Base
from latentpress.checkpoints.io import read_config
from latentpress.compressors import Length, Ratio, Size
from latentpress.data.records import read_records
from latentpress.data.rows import Example, ExampleMaker
from latentpress.errors import InputError, TrainingError
from latentpress.model import PressModel
from latentpress.press import load
from latentpress.training.data_stream import StepStream
from latentpress.training.objective import document_latents, latents_of, part_sizes
from latentpress.training.overrides import make_recipe
from latentpress.training.plot import plot_losses
from training.helpers import overrides, read_log

Train = Callable[..., Path]

NO_SIZES = {"dropped": ("ratio_schedule", "dev_ratios")}


@pytest.mark.parametrize(
    ("settings", "name", "evaluated", "f1"),
    [
        ({"policy": "fixed-length"}, "fixed-length", ("m2", "m4", "m8"), "m8"),
        ({"policy": "length-selector", "rounding": "log"}, "length-selector", ("m2", "m4", "m8"), "m8"),
        ({"policy": "continuous", "ratio_schedule": "0:1/1/0", "dev_ratios": "3,8"}, "continuous", ("x3", "x8"), "x4"),
        ({"policy": "continuous-length"}, "continuous-length", ("m2", "m4", "m8"), "m8"),
        ({"policy": "length-selector", "selection": "document"}, "length-selector", ("m2", "m4", "m8"), "m8"),
    ],
    ids=["fixed-length", "length-selector", "continuous", "continuous-length", "by document"],
)
def test_a_policy_is_trained_and_evaluated_at_its_sizes(
    train: Train, tiny_base_folder: Path, settings: dict[str, Any], name: str, evaluated: tuple[str, ...], f1: str
) -> None:
    out = train(steps=3, dropped={*NO_SIZES["dropped"]} - set(settings), **settings)
    log = read_log(out)
    assert all(math.isfinite(value) for line in log for value in line.values())
    assert len([line for line in log if "loss" in line]) == 3
    (evaluation,) = [line for line in log if "eval_loss" in line]
    for size in evaluated:
        assert {f"eval_{size}_answer", f"eval_{size}_answer_wrong"} <= set(evaluation)
    answers = [evaluation[f"eval_{size}_answer"] for size in evaluated]
    assert evaluation["eval_loss"] == pytest.approx(sum(answers) / len(answers))
    assert 0 <= evaluation[f"eval_f1_{f1}"] <= 100
    assert ("eval_ratio_error" in evaluation) == (name != "fixed-length")
    press = load(str(out / "press"), base=tiny_base_folder, dtype="float32")
    assert (press.config.policy, press.config.candidates) == (name, (2, 4, 8))
    assert press.config.selection == settings.get("selection", "window")
    latents = press.compress("the quick brown fox was signed in Paris " * 3)
    assert isinstance(press.ask(latents, "word?", max_new_tokens=3), str)


def test_a_run_by_length_resumes_to_the_same_press(train: Train) -> None:
    settings = {"policy": "continuous-length", "save_every": 1, "steps": 3, **NO_SIZES}
    whole = train("whole", **settings)
    train("cut", {"minutes": 1e-9}, **settings)
    cut = train("cut", **settings)
    assert read_log(cut) == read_log(whole)


def test_a_run_of_an_older_version_goes_on(train: Train, tmp_path: Path) -> None:
    """Its identity says nothing of the settings that came since."""
    settings = {"steps": 2, "save_every": 1}
    out = train(arguments={"minutes": 1e-9}, **settings)
    changed = 0
    for path in out.iterdir():
        if path.suffix == ".json" and '"selection": "window"' in (text := path.read_text()):
            path.write_text(text.replace('"selection": "window", ', "").replace('"selection": "window",', ""))
            changed += 1
    assert changed
    train(**settings)
    assert read_config(out / "press")[0].trained["step"] == 2


def test_dev_sizes_are_those_that_were_asked_for(train: Train) -> None:
    settings = {"policy": "continuous", "dev_ratios": "3,5,99", "f1_ratio": 7}
    (evaluation,) = [line for line in read_log(train(steps=1, **settings)) if "eval_loss" in line]
    sizes = {name.split("_")[1] for name in evaluation if name.endswith("_answer")}
    assert sizes == {"x3", "x5"}  # 99 is above the highest
    assert "eval_f1_x7" in evaluation


def test_questions_follow_the_candidates_and_that_is_said(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"steps": 1, "eval_every": 1, "candidates": "8,16", "ratio_schedule": "0:1/1"}
    out = train(**settings)
    assert [name for line in read_log(out) for name in line if name.startswith("eval_f1")] == ["eval_f1_x8"]
    said = "questions are answered at ratio 8, as the press has no ratio 4, the recipe's; f1_ratio= sets another"
    assert capsys.readouterr().err.count(said) == 1
    train("own", **settings, f1_ratio=16)
    assert "questions are answered at" not in capsys.readouterr().err


def test_lengths_are_drawn_by_the_schedule_of_their_candidates(data: Path, tiny_base: Base) -> None:
    drawn = sizes_of_steps(data, tiny_base, policy="fixed-length", ratio_schedule="0:1/0/0,0.5:1/1/2")
    assert set(drawn[:100]) == {Length(2)}
    counts = Counter(drawn[100:])
    assert set(counts) == {Length(2), Length(4), Length(8)}
    assert counts[Length(8)] > counts[Length(2)]


def test_continuous_steps_have_all_whole_sizes_between_the_ends(data: Path, tiny_base: Base) -> None:
    drawn = sizes_of_steps(data, tiny_base, policy="continuous", ratio_schedule="")
    assert {size.value for size in drawn} == set(range(2, 9))
    assert all(isinstance(size, Ratio) for size in drawn)


def sizes_of_steps(data: Path, base: Base, **settings: str) -> list[Size]:
    recipe = make_recipe("semidynamic", overrides(steps=200, **settings))
    config = config_for(base)
    maker = ExampleMaker(base.tokenizer, config.prompt, config.window_tokens)
    stream = StepStream([maker.tokenize(record) for record in read_records(data)], maker, recipe)
    return [stream[index].size for index in range(200)]


def test_a_document_of_a_step_shares_a_length_out_as_one_that_is_compressed(tiny_base: Base) -> None:
    example = Example(
        windows=((5, 6, 7, 8, 9, 10), (11, 12, 13, 14, 15), (20, 21, 22, 23)),
        documents=(2, 1),
        prefix=(),
        branches=(),
        log2_ratios=(None,) * 3,
    )
    changes = {"policy": "fixed-length", "candidates": (2, 4)}
    each, shared = (
        make_model(config_for(tiny_base, selection=selection, **changes), tiny_base)
        for selection in ("window", "document")
    )
    assert [size for _, size in part_sizes(each, [example], Length(4))] == [Length(4)] * 3
    assert [size for _, size in part_sizes(shared, [example], Length(4))] == [Length(2), Length(2), Length(4)]
    for model, counts in ((each, [8, 4]), (shared, [4, 4])):
        (latents,), _ = document_latents(model, [example], Length(4))
        assert [len(document) for document in latents] == counts
        assert latents_of(model, [example], Length(4)) == sum(counts)


def test_a_row_that_cannot_fit_by_length_is_refused_before_it_is_trained(train: Train) -> None:
    settings = {"policy": "fixed-length", "candidates": "600", "window_tokens": 600, "max_context_tokens": 600}
    with pytest.raises(InputError, match=r"is \d+ latents at length 600, and the decoder has 512 positions"):
        train(steps=1, **NO_SIZES, **settings)


def test_a_selectors_head_is_kept_when_it_goes_on_to_choose_lengths(train: Train) -> None:
    first = train("first", steps=1)
    start = {"from_press": str(first / "press")}
    second = train(
        "second", start, steps=1, policy="length-selector", learning_rate=0, other_learning_rate=0, **NO_SIZES
    )
    from latentpress.checkpoints.io import read_press

    heads = [read_press(folder / "press")[1]["head.linear.weight"] for folder in (first, second)]
    assert torch.equal(*heads)
    with pytest.raises(TrainingError, match="policy is 'selector' there, 'fixed-length' here"):
        train("third", start, steps=1, policy="fixed-length", **NO_SIZES)


def test_a_press_of_ratios_cannot_be_imitated_by_length(train: Train) -> None:
    teacher = train("teacher", steps=1, policy="fixed")
    settings = {"policy": "fixed-length", "imitate": str(teacher / "press"), "questions": 1, "quotes": 0}
    with pytest.raises(TrainingError, match="it was trained for ratios, and policy 'fixed-length' chooses lengths"):
        train("slots", steps=1, dropped=(*NO_SIZES["dropped"], "quote_schedule"), **settings)


def test_the_picture_of_a_training_shows_lengths_as_ratios(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    labels: list[str] = []
    plot = Axes.plot

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        labels.append(kwargs.get("label", ""))
        return plot(self, *args, **kwargs)

    monkeypatch.setattr(Axes, "plot", watched)
    line = {"step": 1, "eval_m64_answer": 2.0, "eval_m64_answer_wrong": 3.0, "eval_x4_quote": 1.0, "eval_max_answer": 1}
    plot_losses([line], tmp_path / "loss.png")
    assert labels[:1] + labels[-1:] == ["m64 answer", "x4 quote"]


def test_the_models_policy_is_the_recipes(tiny_base: Base) -> None:
    recipe = make_recipe("semidynamic", ["policy=length-selector", "candidates=16,32", "selection=document"])
    config = config_for(tiny_base, policy=recipe.policy, candidates=recipe.candidates, selection=recipe.selection)
    own, press = recipe.ratio_policy(), PressModel(config, tiny_base).policy
    assert (type(own), own.candidates, own.selection) == (type(press), press.candidates, press.selection)
