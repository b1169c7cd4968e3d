"""Ablations of the recipes: every variant is a recipe that can be, and differences are paired over rows."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from benchmarks import recipe_ablations
from benchmarks.recipe_ablations import (
    SETUPS,
    USUAL,
    Variant,
    collect,
    dev_rows,
    difference,
    folders,
    judge,
    judged,
    normalised_latents,
    phases,
    places_of_the_text,
    spread_positions,
    table,
    write,
)
from latentpress.data.rows import Branch, Example, ExampleMaker
from latentpress.decoder.prompt import Slot
from latentpress.errors import InputError
from latentpress.model import PressModel
from latentpress.press import Press
from latentpress.training.objective import document_latents
from latentpress.training.overrides import make_recipe

EVERY = [(setup, name) for setup in SETUPS for name in SETUPS[setup].variants]


@pytest.mark.parametrize(("setup", "name"), EVERY)
def test_every_variant_differs_from_the_usual_one_and_has_its_steps(setup: str, name: str) -> None:
    whole = SETUPS[setup]
    parts = [make_recipe(whole.recipe, part) for part in phases(whole, name, 3, 50)]
    assert sum(part.steps for part in parts) == 50
    assert parts[-1].seed == 3
    variant = whole.variants[name]
    (usual,) = (make_recipe(whole.recipe, part) for part in phases(whole, USUAL, 3, parts[-1].steps))
    assert (parts[-1].identity() == usual.identity()) == (not variant.overrides)
    assert name == USUAL or variant != Variant()
    if variant.first:
        assert len(parts) == 2
        assert parts[0].seed != 3  # or the rest would begin with the same texts
        assert parts[0].questions == 0


def test_no_two_variants_are_alike() -> None:
    for setup in SETUPS.values():
        variants = list(setup.variants.values())
        assert all(one not in variants[i + 1 :] for i, one in enumerate(variants))


def test_a_difference_is_paired_over_rows() -> None:
    usual = [[float(10 * i), 5.0] for i in range(1, 40)]
    worse = [[total + 1.0, tokens] for total, tokens in usual]
    assert difference(worse, usual) == pytest.approx((0.2, 0.2, 0.2))  # one nat a row of five tokens, whatever the row


def test_latents_stand_amid_their_tokens() -> None:
    row = Example(
        windows=((1,) * 6, (1,) * 6),
        documents=(2,),
        prefix=([7, 7, 7], Slot(0), [8]),
        branches=(Branch("answer", (9, 9), 1), Branch("quote", (9,), 0)),
        log2_ratios=(None, None),
    )
    assert spread_positions(row, [3]).tolist() == [0, 1, 2, 3 + 2, 3 + 6, 3 + 10, 15, 16, 17, 16]


def test_changes_reach_the_losses_and_end(tiny_press: Press, tmp_path: Path) -> None:
    dev = tmp_path / "dev.jsonl"
    record = {
        "context": "The keeper of the tower was called Anna. " * 4,
        "qas": [{"question": "Who?", "answers": ["Anna"]}],
    }
    dev.write_text("".join(json.dumps({"id": str(i), **record}) + "\n" for i in range(3)))
    model = tiny_press.model
    maker = ExampleMaker(tiny_press.base.tokenizer, model.config.prompt, model.config.window_tokens)
    rows = dev_rows(maker, str(dev), 2, 300)
    assert len(rows) == 2
    plain = judged(model, rows, (4,))
    assert plain["x4 answer"][0][1] == rows[0].branches[0].labels
    with places_of_the_text():
        assert judged(model, rows, (4,))["x4 answer"] != plain["x4 answer"]
    with normalised_latents():
        ((latents,), _), _ = document_latents(model, rows, model.policy.fixed(4))
        assert judged(model, rows, (4,))["x4 answer"] != plain["x4 answer"]
    norms = latents.float().norm(dim=-1)
    assert torch.allclose(norms, norms.mean().expand_as(norms), rtol=0.02)
    assert judged(model, rows, (4,)) == plain


def test_a_change_is_in_force_while_its_variant_is_trained_and_judged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain, seen = PressModel.latents, []
    monkeypatch.setattr(recipe_ablations, "train", lambda *_, **__: seen.append(PressModel.latents is not plain))
    monkeypatch.setattr(recipe_ablations, "judge", lambda *_: seen.append(PressModel.latents is not plain))
    given = ["embeddings", "--data", "d.jsonl", "--dev", "e.jsonl", "--out", str(tmp_path), "--only"]
    recipe_ablations.main([*given, "usual"])
    recipe_ablations.main([*given, "normalised latents"])
    assert seen == [False, False, True, True]
    assert PressModel.latents is plain


def test_a_run_is_judged_once_and_on_one_set_of_records(tmp_path: Path) -> None:
    dev = tmp_path / "dev.jsonl"
    dev.write_text('{"context": "Anna.", "qas": []}\n')
    about = {"dev": hashlib.sha256(dev.read_bytes()).hexdigest(), "asked": 40}
    (tmp_path / "judged.json").write_text(json.dumps(about))
    judge(tmp_path, str(dev), 40)  # there is no press that could be judged again
    with pytest.raises(InputError, match="is of another --dev or --rows"):
        judge(tmp_path, str(dev), 60)


def finished(out: Path, name: str, seed: int, losses: list[list[float]], steps: int) -> None:
    parts = phases(SETUPS["cache"], name, seed, steps)
    folder = folders(out, "cache", name, seed, len(parts))[-1]
    folder.mkdir(parents=True)
    lines = [
        {"step": step, "loss": 2.0, "answer": 2.0, "context_tokens_per_second": 50.0} for step in range(1, steps + 1)
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    kinds = ("x4 answer", "x16 answer", "x4 quote", "x16 quote")
    (folder / "judged.json").write_text(json.dumps({"rows": len(losses), "losses": dict.fromkeys(kinds, losses)}))


def test_the_report_holds_what_is_finished(tmp_path: Path) -> None:
    finished(tmp_path, USUAL, 0, [[2.0, 2.0], [4.0, 2.0]], 9)
    finished(tmp_path, "rank 4", 0, [[3.0, 2.0], [5.0, 2.0]], 9)
    finished(tmp_path, "rank 32", 0, [[9.0, 2.0], [9.0, 2.0]], 6)  # not at its end
    rows = collect(tmp_path, "cache", (0,), 9)
    assert [row["variant"] for row in rows] == [USUAL, "rank 4"]
    lines = table(rows).splitlines()
    assert lines[2] == "| usual | 0 | 1.500 | – | 1.500 | – | 1.500 | 1.500 |"
    assert lines[3].startswith("| rank 4 | 0 | 2.000 | +0.500 (+0.500 to +0.500) |")
    assert write(tmp_path, "cache", (0,), 9) == (tmp_path / "cache" / "report.md").read_text()
    assert (tmp_path / "cache" / "curves.png").read_bytes().startswith(b"\x89PNG")
