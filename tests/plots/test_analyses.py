"""Pictures of analyses made by hand: what is where, and that nothing is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_sweeps import SCALES, swept_folder

from latentpress.analysis.comparison import read
from latentpress.analysis.curves import sweep
from latentpress.analysis.genres import genres
from latentpress.analysis.predictions import Policy, Predicted
from latentpress.analysis.report import write
from latentpress.analysis.rounding import rounding
from latentpress.analysis.variance import variance
from latentpress.errors import InputError
from latentpress.plots import curves
from latentpress.plots.analyses import _FIGURES, draw


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """An analysis of each kind that needs no press."""
    out = tmp_path_factory.mktemp("swept")
    swept_folder(out, sets=3, genres=2, questions=40)
    compared = read([out])
    policy = Policy(press="mine", name="selector", candidates=(2, 4, 8), selection="window")
    found = [Predicted(id=f"{i}", genre="g", tokens=(64,), log2_ratios=(i / 10,)) for i in range(40)]
    numbers = [{"mean": 0.5, "low": 0.4, "high": 0.6}, {"mean": 0.1, "low": None, "high": None}]
    head = {
        "analysis": "head",
        "about": "How well",
        "place": "here",
        "press": "mine",
        "source": "summary",
        "n": 3,
        "fitted_on": 9,
        "predictors": [
            {"name": name, "about": name, "mae": numbers[0], "pearson": numbers[1], "spearman": numbers[1]}
            for name in ("head", "length")
        ],
        "passages": [{"id": "a", "genre": "g", "label": x, "head": x + 1, "length": x} for x in (1.0, 2.0, 3.0)],
        "notes": [],
    }
    return {
        "sweep": sweep(compared, "mine"),
        "variance": variance(compared, "mine"),
        "genres": genres(compared, "mine"),
        "rounding": rounding(policy, found),
        "head": head,
    }


@pytest.mark.parametrize("name", ["sweep", "variance", "genres", "rounding", "head"])
def test_pictures_are_written_and_the_same_each_time(every: dict[str, Any], name: str, tmp_path: Path) -> None:
    path = write(every[name], tmp_path)[0]
    pictures = draw(path)
    assert [picture.name for picture in pictures] == [f"{name}.png", f"{name}.svg"]
    before = [picture.read_bytes() for picture in pictures]
    assert min(map(len, before)) > 5000
    assert [picture.read_bytes() for picture in draw(path)] == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_sweep_has_two_panels_a_scope_with_all_scales(every: dict[str, Any]) -> None:
    figure = curves.figure_of(every["sweep"])
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["mean of 3 sets", "", "set0", "", "set1", "", "set2", ""]
    above, below = figure.axes[:2]
    lines = {line.get_label(): len(np.asarray(line.get_xdata())) for line in above.lines}
    assert lines == {"fixed ratios": 5, "selector": len(SCALES)}
    (points,) = [line for line in below.lines if line.get_linestyle() == "None" and line.get_marker() == "o"]
    differences = [
        row["difference"]
        for row in every["sweep"]["points"]
        if row["scope"] == "pooled" and row["difference"] is not None
    ]
    assert np.asarray(points.get_ydata()).tolist() == pytest.approx([100 * one["mean"] for one in differences])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["fixed ratios", "selector"]


def test_many_groups_and_scopes_fit_a_screen(every: dict[str, Any]) -> None:
    content = every["sweep"]
    scopes = [f"set{i}" for i in range(13)]
    points = [{**row, "scope": scope} for scope in scopes for row in content["points"] if row["scope"] == "set0"]
    many = {**content, "scopes": scopes, "measures": dict.fromkeys(scopes, "F1"), "points": points}
    figure = curves.figure_of(many)
    assert len(figure.axes) == 26
    width, height = figure.get_size_inches() * 110
    assert width <= 1980
    assert height <= 1080
    looks = curves.looks([f"group{i}" for i in range(12)])
    assert len({(look["color"], look["marker"]) for look in looks.values()}) == 12


def test_every_point_of_the_variance_is_in_a_legend(every: dict[str, Any]) -> None:
    figure = _FIGURES["variance"](every["variance"])
    named = [text.get_text() for axes in figure.axes for text in axes.get_legend().get_texts()]
    assert named == [point["name"] for point in every["variance"]["points"]]


def test_genres_are_named_with_their_contexts(every: dict[str, Any]) -> None:
    (axes,) = _FIGURES["genres"](every["genres"]).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        f"{row['genre']} ({row['contexts']})" for row in every["genres"]["genres"]
    ]


def test_a_file_that_is_no_analysis_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        draw(tmp_path / "sweep.json")
    (tmp_path / "sweep.json").write_text('{"format": 99}')
    with pytest.raises(InputError, match="of format 99"):
        draw(tmp_path / "sweep.json")
