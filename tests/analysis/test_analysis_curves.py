"""Scores over the ratio that was reached: interpolation and paired differences by hand, groups, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bootstrap import paired_bootstrap
from made_results import Results, replies, system, yes_questions
from made_sweeps import SCALES, swept_folder

from latentpress.analysis.comparison import read
from latentpress.analysis.curves import extraction, policies, sweep
from latentpress.errors import InputError

RIGHT = {"x2": "yyyyyyyy", "x16": "yy......", "auto": "yyyyy.y."}


def swept(out: Path, *, kept: int = 10, auto: str = RIGHT["auto"], name: str = "east") -> Results:
    """One set of 40 questions about contexts of 40 tokens; fixed ratios 2 and 16, and what a selector came to."""
    made = Results(out)
    add(made, name, kept=kept, auto=auto)
    return made


def add(made: Results, name: str, *, kept: int = 10, auto: str = RIGHT["auto"]) -> None:
    made.ask(name, yes_questions(40))
    made.answer(name, system("mine", "x2"), replies(RIGHT["x2"] * 5, tokens=160, kept=80))
    made.answer(name, system("mine", "x16"), replies(RIGHT["x16"] * 5, tokens=160, kept=10))
    made.answer(name, system("mine", "auto"), replies(auto * 5, tokens=160, kept=kept))


def point(content: dict[str, Any], group: str, size: str, scope: str) -> dict[str, Any]:
    (found,) = [row for row in content["points"] if (row["group"], row["size"], row["scope"]) == (group, size, scope)]
    row: dict[str, Any] = found
    return row


def test_a_scale_is_held_against_fixed_ratios_at_the_ratio_that_it_came_to(tmp_path: Path) -> None:
    swept(tmp_path, kept=40)
    row = point(sweep(read([tmp_path]), "mine", scales=[0]), "selector", "auto", "east")
    # 4 is one octave of the three from 2 to 16: two thirds of 8/8, one third of 2/8.
    assert row["ratio"] == 4
    assert row["score"]["mean"] == pytest.approx(6 / 8)
    assert row["reference"]["mean"] == pytest.approx(2 / 3 * 1 + 1 / 3 * 2 / 8)
    assert row["difference"]["mean"] == pytest.approx(6 / 8 - 3 / 4)
    right = {size: np.array([mark == "y" for mark in marks * 5], dtype=np.float64) for size, marks in RIGHT.items()}
    between = 2 / 3 * right["x2"] + 1 / 3 * right["x16"]
    _, low, high = paired_bootstrap(right["auto"], between)
    assert (row["difference"]["low"], row["difference"]["high"]) == pytest.approx((low, high), abs=0.02)
    assert row["difference"]["word"] == "level"


def test_a_scale_that_comes_to_a_fixed_ratio_is_held_against_that_alone(tmp_path: Path) -> None:
    swept(tmp_path, kept=10, auto=RIGHT["x16"])
    row = point(sweep(read([tmp_path]), "mine", scales=[0]), "selector", "auto", "east")
    assert (row["ratio"], row["reference"]["mean"]) == (16, 2 / 8)
    assert (row["difference"]["mean"], row["difference"]["low"], row["difference"]["high"]) == (0, 0, 0)


def test_outside_the_fixed_ratios_there_is_no_difference_and_a_note_says_so(tmp_path: Path) -> None:
    swept(tmp_path, kept=120)
    content = sweep(read([tmp_path]), "mine", scales=[0])
    row = point(content, "selector", "auto", "east")
    assert (row["reference"], row["difference"]) == (None, None)
    assert row["score"]["mean"] == 6 / 8
    assert "selector auto" in content["notes"][0]


def test_over_all_sets_the_difference_is_the_mean_of_the_sets_each_at_its_own_ratio(tmp_path: Path) -> None:
    made = swept(tmp_path, kept=40)
    add(made, "west", kept=20, auto="yyyyyyyy")
    content = sweep(read([tmp_path]), "mine", scales=[0])
    east, west, pooled = (point(content, "selector", "auto", scope) for scope in ("east", "west", "pooled"))
    assert west["reference"]["mean"] == pytest.approx(1 / 3 * 1 + 2 / 3 * 2 / 8)
    for number in ("score", "reference", "difference"):
        assert pooled[number]["mean"] == pytest.approx((east[number]["mean"] + west[number]["mean"]) / 2)
    assert pooled["ratio"] == 320 / 60
    assert content["scopes"] == ["pooled", "east", "west"]


def test_score_and_reference_differ_by_the_difference_where_a_system_is_not_done(tmp_path: Path) -> None:
    made = swept(tmp_path, kept=40)
    made.answer("east", system("mine", "x16"), replies("yyyy", tokens=160, kept=10), asked=40)
    row = point(sweep(read([tmp_path]), "mine", scales=[0]), "selector", "auto", "east")
    assert row["score"]["n"] == 40
    # On the first four questions all three systems are always right.
    assert (row["difference"]["n"], row["reference"]["n"]) == (4, 4)
    assert (row["reference"]["mean"], row["difference"]["mean"]) == (1, 0)
    assert math.isnan(row["difference"]["low"])  # four questions are too few
    assert row["difference"]["word"] == "untested"


def test_missing_scales_are_named_with_the_command_that_adds_them(tmp_path: Path) -> None:
    command = ["latentpress", "eval", "--data", "a b.jsonl", "--with", "mine=runs/x@2/16/auto,full", "--out", "here"]
    made = Results(tmp_path, asked_how={"command": command})
    add(made, "east")
    with pytest.raises(InputError) as error:
        sweep(read([tmp_path]), "mine")
    message = str(error.value)
    assert "lacks 12 of 13 scales" in message
    assert "latentpress eval --data 'a b.jsonl' --out here --with mine=runs/x@auto-2/auto-1.5/auto-1/" in message
    assert message.count("--with") == 1
    assert "what is there (auto)" in message


def test_a_press_without_fixed_ratios_is_told_to_add_them(tmp_path: Path) -> None:
    made = Results(tmp_path)
    made.ask("east", yes_questions(4))
    made.answer("east", system("mine", "auto"), replies("yyyy"))
    with pytest.raises(InputError, match=r"no fixed ratios of 'mine'.*--with mine@2/4/8/16/32"):
        sweep(read([tmp_path]), "mine", scales=[0])


def test_an_unknown_press_is_refused_with_the_nearest_names(tmp_path: Path) -> None:
    swept(tmp_path)
    with pytest.raises(InputError, match=r"'mini' is not in .*; it holds mine"):
        sweep(read([tmp_path]), "mini")


def test_the_paper_s_sweep_has_thirteen_scales(tmp_path: Path) -> None:
    swept_folder(tmp_path, sets=1, questions=12)
    content = sweep(read([tmp_path]), "mine")
    assert [row["scale"] for row in content["points"] if row["group"] == "selector"] == list(SCALES)
    assert content["scopes"] == ["set0"]


def extracted(out: Path) -> Results:
    made = Results(out)
    made.ask("east", yes_questions(40))
    for name, four, eight in (("pool", "yyyy", "yy.."), ("last-a", "yyy.", "y..."), ("last-b", "y...", "....")):
        made.answer("east", system(name, "x4"), replies(four * 10, kept=10))
        made.answer("east", system(name, "x8"), replies(eight * 10, kept=5))
    return made


def test_a_group_of_several_systems_is_their_mean(tmp_path: Path) -> None:
    extracted(tmp_path)
    content = extraction(read([tmp_path]), groups="pooling=pool,last=last-a,last=last-b")
    assert content["reference"] == "pooling"
    rows = [point(content, "last", size, "east") for size in ("x4", "x8")]
    assert [row["score"]["mean"] for row in rows] == [0.5, 0.125]
    assert [row["difference"]["mean"] for row in rows] == [-0.5, -0.375]
    assert [row["difference"]["word"] for row in rows] == ["worse", "worse"]
    assert rows[0]["labels"] == ["last-a-x4", "last-b-x4"]


def test_groups_are_presses_by_themselves_or_by_what_they_are_called(tmp_path: Path) -> None:
    made = extracted(tmp_path)
    compared = read([made.out])
    assert list(extraction(compared)["groups"]) == ["last-a", "last-b", "pool"]
    for name, press in (("pool", "p1"), ("last-a", "p2"), ("last-b", "p3")):
        for path in (tmp_path / "predictions" / "east").glob(f"{name}-*.jsonl"):
            header, _, rows = path.read_text().partition("\n")
            about = json.loads(header)
            about["system"]["identity"]["press"] = press
            path.write_text(f"{json.dumps(about)}\n{rows}")
    called = {"p1": "mean-pooling", "p2": "last-tokens", "p3": "last-tokens"}
    content = extraction(read([tmp_path]), called=called)
    assert list(content["groups"]) == ["last-tokens (last-a)", "last-tokens (last-b)", "mean-pooling"]


def test_policies_are_held_against_a_curve_at_any_ratio(tmp_path: Path) -> None:
    made = swept(tmp_path, kept=40)
    made.answer("east", system("alone", "x8"), replies("yyyy...." * 5, tokens=160, kept=20))
    content = policies(read([tmp_path]), groups="several=mine@fixed,chosen=mine@selector,single=alone@8")
    assert point(content, "chosen", "auto", "east")["difference"]["mean"] == pytest.approx(0)
    assert point(content, "single", "x8", "east")["reference"]["mean"] == pytest.approx(1 / 3 + 2 / 3 / 4)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ("a=mine", "only one group"),
        ("a=mine,b=nobody", "'nobody' is not in .*it holds mine"),
        ("a=mine,b=mine@4", "'mine@4' is not in .* --with mine@4"),
        ("a=mine,b=", "no name or no system"),
        (" , ", "names no group"),
        ("a=mine@2,a=mine@16,b=mine", "no size in common"),
    ],
)
def test_groups_that_cannot_be_are_refused(tmp_path: Path, groups: str, message: str) -> None:
    swept(tmp_path)
    with pytest.raises(InputError, match=message):
        policies(read([tmp_path]), groups=groups)


def test_folders_of_the_same_questions_are_read_as_one(tmp_path: Path) -> None:
    for name, marks in (("pool", "yyyy"), ("last", "yy..")):
        made = Results(tmp_path / name)
        made.ask("east", yes_questions(8))
        made.answer("east", system(name, "x4"), replies(marks * 2))
    content = extraction(read([tmp_path / "pool", tmp_path / "last"]), groups="pool,last")
    assert point(content, "last", "x4", "east")["difference"]["mean"] == -0.5


def test_folders_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    folders = {}
    for name, protocol, digest in (("a", "default", "d"), ("b", "comprexit", "d"), ("c", "default", "other")):
        made = Results(tmp_path / name, protocol=protocol)
        made.ask("east", yes_questions(8))
        made.answer("east", system("mine", "x4", fingerprint=name), replies("yyyy" * 2))
        path = made.out / "settings.json"
        settings = json.loads(path.read_text())
        settings["sets"][0]["digest"] = digest
        path.write_text(json.dumps(settings))
        folders[name] = made.out
    with pytest.raises(InputError, match="asked otherwise"):
        read([folders["a"], folders["b"]])
    with pytest.raises(InputError, match="other questions as set 'east'"):
        read([folders["a"], folders["c"]])


def test_two_systems_of_one_name_in_two_folders_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        made = Results(tmp_path / name)
        made.ask("east", yes_questions(8))
        made.answer("east", system("mine", "x4", identity={"press": name}), replies("yyyy" * 2))
    with pytest.raises(InputError, match="different systems of the name 'mine-x4'"):
        read([tmp_path / "a", tmp_path / "b"])


def test_a_folder_without_answers_is_refused(tmp_path: Path) -> None:
    Results(tmp_path).ask("east", yes_questions(2))
    with pytest.raises(InputError, match="holds no answers"):
        read([tmp_path])
    with pytest.raises(InputError, match="no folder of results"):
        read([tmp_path / "missing"])


def test_only_points_of_a_selector_have_a_scale(tmp_path: Path) -> None:
    made = swept(tmp_path)
    made.answer("east", system("long", "m64"), replies(RIGHT["x2"] * 5, tokens=160, kept=64))
    made.answer("east", system("long", "auto+1"), replies(RIGHT["auto"] * 5, tokens=160, kept=40))
    content = policies(read([tmp_path]), groups="fixed=mine@fixed,lengths=long@fixed,chosen=long@selector")
    scales = {row["size"]: row["scale"] for row in content["points"]}
    assert scales == {"x2": None, "x16": None, "m64": None, "auto+1": 1}
