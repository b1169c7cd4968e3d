"""Ablations: every variant is a recipe that can be, and the table holds what finished runs logged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.ablations import RECIPE, VARIANTS, collect, folder_of, overrides, table, write
from latentpress.training.overrides import make_recipe


def log(out: Path, variant: str, seed: int, *, answer: float, step: int = 9) -> None:
    folder = folder_of(out, variant, seed)
    folder.mkdir(parents=True)
    lines = [
        {"step": 5, "loss": 1.0, "latents": 0.9},
        {"step": step, "loss": 1.0, "latents": 0.5 + seed / 10},
        {
            "step": step,
            "eval_loss": 1.0,
            "eval_x4_answer": answer,
            "eval_x4_answer_wrong": 4.0,
            "eval_x16_answer": answer + 1,
        },
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_differs_from_the_others_and_shares_the_rest(variant: str) -> None:
    recipe = make_recipe(RECIPE, overrides(variant, 3, 150))
    assert (recipe.steps, recipe.seed, recipe.encoder_lora, recipe.imitate) == (
        150,
        3,
        None,
        "semidynamic-smollm2-135m",
    )
    others = [make_recipe(RECIPE, overrides(name, 3, 150)).identity() for name in VARIANTS if name != variant]
    assert recipe.identity() not in others
    plain = make_recipe(RECIPE, overrides("comprexit", 3, 150)).identity()
    differing = {name for name, value in recipe.identity().items() if value != plain[name]}
    assert differing <= {"compressor", "compressor_settings"}


def test_the_papers_compressor_has_its_usual_settings() -> None:
    assert make_recipe(RECIPE, overrides("as in the paper", 0, 9)).identity()["compressor_settings"] == {}


def test_the_table_holds_finished_variants_best_first(tmp_path: Path) -> None:
    for seed in (0, 1):
        log(tmp_path, "comprexit", seed, answer=2.5)
        log(tmp_path, "last layer", seed, answer=2.0 + seed)
    log(tmp_path, "layer 10", 0, answer=1.0)  # its second seed is missing
    log(tmp_path, "without locality", 0, answer=1.0)
    log(tmp_path, "without locality", 1, answer=1.0, step=6)  # not at its end
    rows = collect(tmp_path, (0, 1), 9)
    assert [row["variant"] for row in rows] == ["comprexit", "last layer"]
    assert rows[1]["eval_x4_answer"] == [2.0, 3.0]
    assert rows[1]["distance"] == [0.5, 0.6]
    lines = table(rows).splitlines()
    assert lines[2] == "| comprexit | 2.500 (2.500, 2.500) | 3.500 (3.500, 3.500) | 0.550 (0.500, 0.600) |"
    assert lines[3].startswith("| last layer | 2.500 (2.000, 3.000)")


def test_results_are_written_beside_the_runs(tmp_path: Path) -> None:
    log(tmp_path, "comprexit", 0, answer=2.5)
    text = write(tmp_path, (0,), 9)
    assert (tmp_path / "report.md").read_text() == text
    assert json.loads((tmp_path / "results.json").read_text())[0]["variant"] == "comprexit"
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
