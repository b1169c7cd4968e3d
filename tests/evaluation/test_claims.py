"""Claims are judged by evidence files alone."""

from __future__ import annotations

import json
import math
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest
from made_results import Results, replies, system, yes_questions

from latentpress.errors import InputError
from latentpress.evaluation.claims import HEADER, Claim, caveats, claims, rows, table, to_markdown
from latentpress.evaluation.metrics_file import read_metrics, write_metrics


def claim(results: Path | None, id: str) -> Claim:
    (found,) = [one for one in table(results) if one.published.id == id]
    return found


def ablations(folder: Path, **losses: list[float]) -> Path:
    """Results of the ablations as their script writes them."""
    named = [(name.replace("_", " "), values) for name, values in losses.items()]
    made = [
        {"variant": name, "seeds": list(range(len(values))), "steps": 9, "eval_x4_answer": values, "distance": values}
        for name, values in named
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(made))
    return folder


def comparison(out: Path, first: str, second: str) -> Path:
    """Two presses at x4, their answers as patterns."""
    made = Results(out)
    made.ask("set", yes_questions(len(first)))
    made.answer("set", system("mean", "x4"), replies(first))
    made.answer("set", system("last", "x4"), replies(second))
    write_metrics(out)
    return out


def evidence(root: Path, **changes: Any) -> Path:
    entry = {
        "claim": "mean-pooling-over-last-tokens",
        "metrics": "pooling/metrics.json",
        "first": "mean-x4",
        "second": "last-x4",
        "scope": "set",
        **changes,
    }
    (root / "evidence.json").write_text(json.dumps({"format": 1, "evidence": [entry]}))
    return root


def test_without_evidence_nothing_is_measured(tmp_path: Path) -> None:
    for found in (table(), table(tmp_path)):
        assert [one.published for one in found] == list(claims())
        assert {one.verdict for one in found} == {"not yet measured"}


def test_claims_have_names_of_their_own_and_both_papers_make_some() -> None:
    assert len({one.id for one in claims()}) == len(claims())
    assert len({one.paper for one in claims()}) == 2


@pytest.mark.parametrize(
    ("mean", "last", "verdict"),
    [
        ("yyyy" * 10, "yy.." * 10, "holds"),
        ("yy.." * 10, "yyyy" * 10, "does not hold"),
        ("y." * 20, ".y" * 20, "not yet decided"),
    ],
)
def test_a_claim_holds_where_the_whole_interval_is_on_its_side(
    tmp_path: Path, mean: str, last: str, verdict: str
) -> None:
    comparison(tmp_path / "pooling", mean, last)
    found = claim(evidence(tmp_path), "mean-pooling-over-last-tokens")
    assert found.verdict == verdict
    assert found.ours[0].mean == pytest.approx((mean.count("y") - last.count("y")) / 40)


def test_either_side_of_a_pair_may_be_the_claimed_one(tmp_path: Path) -> None:
    comparison(tmp_path / "pooling", "yyyy" * 10, "yy.." * 10)
    (turned,) = claim(evidence(tmp_path, first="last-x4", second="mean-x4"), "mean-pooling-over-last-tokens").ours
    (straight,) = claim(evidence(tmp_path), "mean-pooling-over-last-tokens").ours
    assert (turned.mean, turned.low, turned.high) == (-straight.mean, -(straight.high or 0), -(straight.low or 0))


def test_little_and_collapse_have_a_size(tmp_path: Path) -> None:
    comparison(tmp_path / "pooling", "yyyy" * 10, "yyyy" * 10)  # level, without an interval's width
    assert (
        claim(evidence(tmp_path, claim="several-ratios-cost-little"), "several-ratios-cost-little").verdict == "holds"
    )
    collapse = claim(evidence(tmp_path, claim="continuous-ratios-collapse"), "continuous-ratios-collapse")
    assert collapse.verdict == "does not hold"


def test_what_leaves_a_claim_open_is_told(tmp_path: Path) -> None:
    comparison(tmp_path / "pooling", "y." * 20, ".y" * 20)
    level = claim(evidence(tmp_path, claim="several-ratios-cost-little"), "several-ratios-cost-little")
    assert level.told == "not yet decided (interval includes -2.0 points)"
    comparison(tmp_path / "one", "yyyy" * 10, "yy.." * 10)
    comparison(tmp_path / "two", "yy.." * 10, "yyyy" * 10)
    entries = [
        {
            "claim": "comprexit-over-icae",
            "metrics": f"{name}/metrics.json",
            "first": "mean-x4",
            "second": "last-x4",
            "scope": "set",
        }
        for name in ("one", "two")
    ]
    (tmp_path / "evidence.json").write_text(json.dumps({"format": 1, "evidence": entries}))
    both = claim(tmp_path, "comprexit-over-icae")
    assert (both.verdict, both.told) == ("not yet decided", "not yet decided (intervals on both sides)")
    assert both.told in to_markdown([both])


NOTE = "Both imitated a press that pools means."


def test_evidence_with_a_note_decides_nothing_and_is_shown(tmp_path: Path) -> None:
    comparison(tmp_path / "pooling", "yyyy" * 10, "yy.." * 10)
    found = claim(evidence(tmp_path, note=f" {NOTE}\n"), "mean-pooling-over-last-tokens")
    assert (found.verdict, found.told) == ("no fair test", f"no fair test: {NOTE}")
    assert (found.ours[0].mean, found.ours[0].note) == (pytest.approx(0.5), NOTE)
    assert str(found.ours[0]) in to_markdown([found])
    assert NOTE in to_markdown([found])
    assert "no fair test" in caveats()[0]


def test_a_fair_test_beside_one_with_a_note_decides(tmp_path: Path) -> None:
    comparison(tmp_path / "unfair", "yyyy" * 10, "yy.." * 10)
    comparison(tmp_path / "again", "yyyy" * 10, "yy.." * 10)
    comparison(tmp_path / "fair", "yy.." * 10, "yyyy" * 10)
    for name, note in (("unfair", {"note": NOTE}), ("again", {"note": NOTE}), ("fair", {})):
        evidence(tmp_path / name, metrics="metrics.json", **note)
    found = claim(tmp_path, "mean-pooling-over-last-tokens")
    assert (found.verdict, len(found.ours)) == ("does not hold", 3)
    assert found.told == f"does not hold (left out: {NOTE})"


@pytest.mark.parametrize("note", ["", " ", None, 5, ["why"]])
def test_a_note_that_is_no_sentence_is_refused(tmp_path: Path, note: Any) -> None:
    comparison(tmp_path / "pooling", "yyyy", "yy..")
    with pytest.raises(InputError, match=r"evidence\.json has the note .* write a sentence"):
        table(evidence(tmp_path, note=note))


def test_losses_of_ablations_are_paired_by_seed(tmp_path: Path) -> None:
    ablations(tmp_path / "ablations", comprexit=[2.0, 2.4], window_attention=[2.5, 3.0], last_layer=[2.1, 2.3])
    (transport,) = claim(tmp_path, "loss-without-transport").ours
    away = 12.706 * (0.1 / math.sqrt(2)) / math.sqrt(2)  # Student's t of one degree of freedom
    assert transport.mean == pytest.approx(0.55)
    assert (transport.low, transport.high) == (pytest.approx(0.55 - away), pytest.approx(0.55 + away))
    assert claim(tmp_path, "loss-without-transport").verdict == "not yet decided"  # -0.09 to +1.19
    assert claim(tmp_path, "loss-without-transport").told == "not yet decided (interval includes 0 nats a token)"
    assert str(transport) == "+0.55 (-0.09 to +1.19) nats a token"
    assert claim(tmp_path, "loss-with-last-layer").ours[0].mean == pytest.approx(0)


def test_more_seeds_narrow_the_interval(tmp_path: Path) -> None:
    ablations(tmp_path, comprexit=[2.0, 2.0, 2.0], window_attention=[2.5, 2.6, 2.55])
    assert claim(tmp_path, "loss-without-transport").verdict == "holds"


def test_one_seed_decides_nothing(tmp_path: Path) -> None:
    ablations(tmp_path, comprexit=[2.0], window_attention=[2.5])
    found = claim(tmp_path, "loss-without-transport")
    assert (found.verdict, found.told) == ("not yet decided", "not yet decided (no interval)")
    assert str(found.ours[0]) == "+0.50 nats a token, no interval"


def test_the_best_single_layer_is_the_one_of_least_loss(tmp_path: Path) -> None:
    ablations(tmp_path, comprexit=[2.0], embedding_layer=[2.9], layer_10=[2.3], layer_20=[2.2], last_layer=[2.6])
    (found,) = claim(tmp_path, "loss-with-best-single-layer").ours
    assert found.mean == pytest.approx(0.2)
    assert "layer 20" in found.source


def test_outer_layers_alone_say_nothing_of_the_best(tmp_path: Path) -> None:
    ablations(tmp_path, comprexit=[2.0], embedding_layer=[2.9], last_layer=[2.6])
    assert claim(tmp_path, "loss-with-best-single-layer").ours == ()


def test_a_selectors_gain_is_found_in_any_comparison(tmp_path: Path) -> None:
    made = Results(tmp_path / "deep" / "down")
    made.ask("set", yes_questions(20))
    for size, right, kept in (("x4", "yy..", 16), ("x16", "....", 4), ("auto", "yyyy", 8)):
        made.answer("set", system("press", size), replies(right * 5, tokens=64, kept=kept))
    write_metrics(made.out)
    found = claim(tmp_path, "semi-dynamic-over-fixed")
    assert found.ours[0].mean == pytest.approx(1 - 0.25)
    assert found.verdict == "holds"
    assert claim(tmp_path, "gain-grows-with-variance").verdict == "not yet measured"


def selected(out: Path, *kept: int, press: str = "ab", name: str = "press", sets: str = "set") -> Path:
    """A press at x2 and x16, and its selector on as many sets as numbers of kept tokens of 64 are given; it gains."""
    made = Results(out)
    for i, count in enumerate(kept):
        one = f"{sets}{i}"
        made.ask(one, yes_questions(20))
        for size, right, of in (("x2", "yy..", 32), ("x16", "....", 4), ("auto", "yyyy", count)):
            about = system(name, size, identity={"press": press, "scale": 0.0})
            made.answer(one, about, replies(right * 5, tokens=64, kept=of))
    write_metrics(out)
    return out


@pytest.mark.parametrize("part", ["part", "a-part"])
def test_a_repeated_measurement_of_a_selector_counts_once(tmp_path: Path, part: str) -> None:
    selected(tmp_path / "all", 8, 16, 24)
    selected(tmp_path / part, 8, 16, name="renamed")
    selected(tmp_path / "two", 8, 16, 24)
    (found,) = claim(tmp_path, "semi-dynamic-over-fixed").ours
    assert found.source == "all/metrics.json: press, 3 of 3 sizes and sets"


def test_other_presses_and_other_sets_are_no_repetition(tmp_path: Path) -> None:
    selected(tmp_path / "a", 8)
    selected(tmp_path / "b", 8, press="cd")
    selected(tmp_path / "c", 8, sets="other")
    assert len(claim(tmp_path, "semi-dynamic-over-fixed").ours) == 3


def test_a_repeated_slope_counts_once(tmp_path: Path) -> None:
    made = Results(tmp_path / "first")
    for i in range(3):
        made.ask(f"set{i}", yes_questions(20))
        for size, right, of in (("x2", "yy..", 32), ("x16", "....", 4)):
            made.answer(f"set{i}", system("press", size), replies(right * 5, tokens=64, kept=of))
        chosen = replies("yy" * 5, tokens=64, kept=8 + 2 * i) + replies("yy" * 5, tokens=64, kept=8 - 2 * i)
        made.answer(f"set{i}", system("press", "auto"), chosen)
    write_metrics(made.out)
    once = claim(tmp_path, "gain-grows-with-variance").ours
    shutil.copytree(made.out, tmp_path / "second")
    assert len(once) == 1
    assert claim(tmp_path, "gain-grows-with-variance").ours == once


def test_a_selector_at_the_lowest_ratio_does_not_test_the_claim(tmp_path: Path) -> None:
    selected(tmp_path, 32, 31)  # x2, and x2.06
    found = claim(tmp_path, "semi-dynamic-over-fixed")
    assert (found.verdict, found.ours) == ("not yet measured", ())


def test_without_its_lowest_ratio_a_selectors_gain_is_that_of_the_rest(tmp_path: Path) -> None:
    selected(tmp_path, 32, 16, 8)
    (found,) = claim(tmp_path, "semi-dynamic-over-fixed").ours
    points = read_metrics(tmp_path)["selector_gains"][0]["points"]
    assert [point["at_lowest"] for point in points] == [True, False, False]
    assert found.mean == pytest.approx(statistics.fmean(point["mean"] for point in points[1:]))
    gain = read_metrics(tmp_path)["selector_gains"][0]["gain"]
    assert (found.low, found.high) == (gain["low"], gain["high"])
    # The two sets are resampled by themselves, so that their mean moves less than they do.
    assert found.low > statistics.fmean(point["low"] for point in points[1:])
    assert found.source.endswith("2 of 3 sizes and sets")


def test_other_files_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"not": "ablations"}')
    (tmp_path / "metrics.json").write_text('{"other": "metrics"}')
    assert {one.verdict for one in table(tmp_path)} == {"not yet measured"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"claim": "mean-pooling"}, "names the claim 'mean-pooling'; claims are"),
        ({"first": "best-x4"}, "compares 'best-x4' with 'last-x4'"),
        ({"scope": "pooled"}, "on 'pooled', which"),
        ({"metrics": "elsewhere/metrics.json"}, "cannot be read"),
    ],
)
def test_evidence_that_names_what_is_not_there_is_refused(tmp_path: Path, changes: Any, message: str) -> None:
    comparison(tmp_path / "pooling", "yyyy", "yy..")
    with pytest.raises(InputError, match=message):
        table(evidence(tmp_path, **changes))


@pytest.mark.parametrize("content", ["[]", "{", '{"format": 2, "evidence": []}', '{"format": 1, "evidence": [1]}'])
def test_what_is_no_evidence_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "evidence.json").write_text(content)
    with pytest.raises(InputError, match="correct or remove it"):
        table(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.json", "5"),
        ("metrics.json", "[]"),
        ("metrics.json", '{"selector_gains": [{"press": "x"}]}'),
        ("metrics.json", '{"format": 1, "selector_gains": []}'),
        ("metrics.json", '{"format": 3, "selector_gains": [{"press": "x"}]}'),
        ("metrics.json", '{"format": 3, "selector_gains": [{"press": "x", "gain": {"mean": "high"}, "slope": null}]}'),
        ("metrics.json", '{"format": 3, "selector_gains": 5}'),
        ("results.json", '[{"variant": "comprexit", "seeds": [0, 1], "eval_x4_answer": [2.0]}]'),
        ("results.json", '[{"variant": "comprexit", "seeds": 1, "eval_x4_answer": [2.0]}]'),
        ("results.json", '[{"variant": [], "seeds": [], "eval_x4_answer": []}]'),
        (
            "results.json",
            '[{"variant": "comprexit", "seeds": [0], "eval_x4_answer": [2.0]}, '
            '{"variant": "layer 1", "seeds": [], "eval_x4_answer": []}]',
        ),
    ],
)
def test_a_file_that_is_laid_out_otherwise_is_named(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        table(tmp_path)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no folder"):
        table(tmp_path / "none")


def test_tables_have_a_row_a_claim(tmp_path: Path) -> None:
    found = table(tmp_path)
    header, *cells = rows(found)
    assert header == HEADER
    assert len(cells) == len(claims())
    assert to_markdown(found).count("not yet measured") == len(claims())
    assert all(caveat in to_markdown(found) for caveat in caveats())
    assert any("far smaller" in caveat for caveat in caveats())
