"""Pictures of a comparison made by hand: what is where, and that it can be told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_results import Results, replies, system, yes_questions
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from latentpress.evaluation.metrics_file import write_metrics
from latentpress.evaluation.speed_schema import Speed, Times
from latentpress.plots import latency, pareto
from latentpress.plots.systems import interval_bars, lines


@pytest.fixture
def results(tmp_path: Path) -> Results:
    made = Results(tmp_path)
    for name in ("east", "west"):
        made.ask(name, yes_questions(16))
        for size, right, kept in (("x4", "yyyyyy..", 10), ("x8", "yy......", 5), ("auto", "yyyyy...", 8)):
            made.answer(name, system("press", size), replies(right * 2, kept=kept))
        for reader, right in (("zero-shot", "y......."), ("tuned", "yy......")):
            made.answer(name, system("head", "x4", "bound", reader), replies(right * 2))
        made.answer(name, system("bm25", "x4", "bound", "tuned", sees_question=True), replies("yyyyyyy." * 2))
        made.answer(name, system("full", None, "bound", "tuned"), replies("yyyyyyyy" * 2, kept=40))
        made.answer(name, system("none", None, "bound", "tuned"), replies("........" * 2, kept=0))
    return made


def timed(made: Results) -> None:
    whole = Times(kept=40, first_token=(1.0,), total=(2.0,))
    press = Times(
        kept=10, first_token=(1.0,), total=(1.0,), compress=(0.6,), stored_total=(0.5,), stored_first_token=(0.2,)
    )
    every = {"full-zero-shot": whole, "press-x4": press}
    speed = Speed(machine="one", reference="full-zero-shot", answer_tokens=8, lengths={40: every, 80: every})
    speed.write(made.out / "speed.json")


def points(axes: Axes) -> list[tuple[list[float], list[float], Any]]:
    """Lines with marks, sorted: what is on the two axes, and the line."""
    found = [line for line in axes.lines if line.get_marker() not in ("None", "", "|", "_")]
    return sorted(
        ((list(np.asarray(line.get_xdata())), list(np.asarray(line.get_ydata())), line) for line in found),
        key=lambda one: one[:2],
    )


def test_pictures_are_written_and_the_same_each_time(results: Results) -> None:
    write_metrics(results.out)
    paths = pareto.draw(results.out)
    assert sorted(path.name for path in paths) == ["pareto.png", "pareto.svg"]  # no times, no second picture
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in pareto.draw(results.out)] == before
    assert {path.name for path in results.out.iterdir()} >= {"pareto.png", "pareto.svg"}
    assert not [path for path in results.out.iterdir() if path.name.startswith(".")]
    timed(results)
    write_metrics(results.out)
    assert {path.name for path in pareto.draw(results.out)} >= {"latency.png", "latency.svg"}


def test_points_are_scores_over_the_ratio_that_was_reached(results: Results) -> None:
    figure = pareto.figure_of(write_metrics(results.out))
    pooled, *small = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["mean of 2 sets", "east", "west"]
    for axes in (pooled, *small):
        assert [(x, y) for x, y, _ in points(axes)] == [
            ([4.0], [12.5]),
            ([4.0], [25.0]),
            ([4.0], [87.5]),
            ([4.0, 8.0], [75.0, 25.0]),
            ([5.0], [62.5]),
        ]


def test_bars_reach_to_the_ends_of_the_interval(results: Results) -> None:
    content = write_metrics(results.out)
    headline = content["systems"]["press-x4"]["scopes"]["pooled"]["headline"]
    assert 0 < headline["low"] < headline["mean"] < headline["high"]
    (axes, *_) = pareto.figure_of(content).axes
    ends = [tuple(round(float(y), 3) for _, y in bar) for bars in axes.collections for bar in bars.get_segments()]
    assert (round(100 * headline["low"], 3), round(100 * headline["high"], 3)) in ends
    few = {"mean": 0.5, "low": None, "high": None}
    assert interval_bars([few, {"mean": 0.5, "low": 0.25, "high": 1.0}]) == [[0.0, 25.0], [0.0, 50.0]]


def test_the_papers_protocol_has_its_ratio_on_the_axis(tmp_path: Path) -> None:
    made = Results(tmp_path, protocol="semidynamic")
    made.ask("only", yes_questions(2))
    made.answer("only", system("press", "x4"), [("yes", 40, 4), ("no", 40, 16)])
    (axes,) = pareto.figure_of(write_metrics(tmp_path)).axes
    assert [(x, y) for x, y, _ in points(axes)] == [([10.0], [50.0])]
    assert "over correct answers" in axes.get_xlabel()


def test_systems_that_are_not_done_are_not_in_the_panel_of_all(results: Results) -> None:
    results.answer("west", system("press", "x4"), replies("yyyy"), asked=8)
    pooled, _, west = pareto.figure_of(write_metrics(results.out)).axes
    assert ([8.0], [25.0]) in [one[:2] for one in points(pooled)]
    assert ([4.0, 8.0], [100.0, 25.0]) in [one[:2] for one in points(west)]


def test_bounds_of_no_size_are_horizontal_lines(results: Results) -> None:
    axes = pareto.figure_of(write_metrics(results.out)).axes[0]
    levels = [line for line in axes.lines if list(np.asarray(line.get_xdata())) == [0, 1]]
    assert sorted(float(np.asarray(line.get_ydata())[0]) for line in levels) == [0, 100]


def test_lines_differ_by_reader_question_and_selector(results: Results) -> None:
    content = write_metrics(results.out)
    looks = {line.labels: line.look for line in lines(content["systems"])}
    press, chosen = looks["press-x4", "press-x8"], looks[("press-auto",)]
    tuned, faint, sees = (looks[(label,)] for label in ("head-x4-tuned", "head-x4-zero-shot", "bm25-x4-tuned"))
    assert press.colour == chosen.colour
    assert (press.dashes, press.hollow, chosen.dashes, chosen.hollow) == ("-", False, ":", True)
    assert tuned.colour == faint.colour != sees.colour
    assert faint.alpha < tuned.alpha
    assert (sees.dashes, sees.hollow) == ("--", True)
    assert press.width > tuned.width
    assert len({(look.colour, look.mark) for look in looks.values()}) == 3  # a name each


def test_the_legend_names_every_system_and_bound_once(results: Results) -> None:
    (legend,) = pareto.figure_of(write_metrics(results.out)).legends
    named = [text.get_text() for text in legend.get_texts()]
    assert sorted(named) == sorted(
        [
            *("press", "head", "bm25", "faint: read zero-shot", "sees the question", "its selector chooses"),
            *("full text, tuned", "no context, tuned"),
        ]
    )


def test_latency_shows_answers_from_the_text_and_from_what_is_stored(results: Results) -> None:
    timed(results)
    figure = latency.figure_of(write_metrics(results.out))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["texts of 40 tokens", "texts of 80 tokens"]
    (stored, whole) = points(figure.axes[0])
    assert stored[:2] == ([0.25], [75.0])
    assert whole[:2] == ([0.5], [75.0])
    assert to_hex(stored[2].get_markerfacecolor()) == "#ffffff"
    assert to_hex(whole[2].get_markerfacecolor()) == to_hex(whole[2].get_color())


def test_many_sets_and_none_answered_can_be_drawn(tmp_path: Path) -> None:
    empty = Results(tmp_path / "empty")
    empty.ask("only", yes_questions(2))
    write_metrics(empty.out)
    assert pareto.draw(empty.out)
    many = Results(tmp_path / "many")
    for i in range(12):
        many.ask(f"set{i}", yes_questions(4))
        many.answer(f"set{i}", system("press", "x4"), replies("yy.."))
    figure = pareto.figure_of(write_metrics(many.out))
    assert len(figure.axes) == 13
    width, height = figure.get_size_inches() * 110
    assert (width, height) <= (1980, 1080)


def test_a_press_that_reads_some_windows_is_told_from_the_press(tmp_path: Path) -> None:
    made = Results(tmp_path)
    made.ask("east", yes_questions(8))
    for reader, right in (("own", "yy......"), ("focus2", "yyyyyy..")):
        for size, kept in (("x4", 10), ("x8", 5)):
            made.answer("east", system("press", size, reader=reader), replies(right, kept=kept))
    content = write_metrics(made.out)
    looks = {line.name: line.look for line in lines(content["systems"])}
    whole, some = looks["press"], looks["press, focus2"]
    assert (whole.colour, whole.width) == (some.colour, some.width)
    assert whole.mark != some.mark
    assert (whole.dashes, some.dashes) == ("-", "-.")
    (legend,) = pareto.figure_of(content).legends
    handles = zip(legend.get_texts(), legend.get_lines(), strict=True)
    assert {text.get_text(): handle.get_linestyle() for text, handle in handles} == {
        "press": "-",
        "press, focus2": "-.",
    }
