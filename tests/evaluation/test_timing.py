"""Sides of a comparison take turns, and a ratio is taken within each turn."""

from __future__ import annotations

import pytest


def test_sides_take_turns_in_turning_order_after_one_run_each_for_warmth() -> None:
    from latentpress.evaluation.timing import interleave

    order: list[str] = []
    times = interleave({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3)
    assert order == ["a", "b", "a", "b", "b", "a", "a", "b"]
    assert {name: len(taken) for name, taken in times.seconds.items()} == {"a": 3, "b": 3}


def test_side_with_fewer_rounds_sits_out_the_last_ones() -> None:
    from latentpress.evaluation.timing import interleave

    order: list[str] = []
    sides = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    interleave(sides, rounds={"a": 3, "b": 1}, warm=False)
    assert order == ["a", "b", "a", "a"]


def test_some_rounds_are_run_however_little_time_there_is() -> None:
    from latentpress.evaluation.timing import interleave

    assert len(interleave({"a": lambda: None}, rounds=9, seconds=0.0).seconds["a"]) == 2
    assert len(interleave({"a": lambda: None}, rounds=9, seconds=0.0, at_least=3).seconds["a"]) == 3


def test_warm_up_can_be_shorter_than_what_is_timed() -> None:
    from latentpress.evaluation.timing import interleave

    order: list[str] = []
    times = interleave({"a": lambda: order.append("a")}, rounds=1, warm={"a": lambda: order.append("short")})
    assert order == ["short", "a"]
    assert len(times.seconds["a"]) == 1


def test_times_that_a_side_returns_stand_under_its_name() -> None:
    from latentpress.evaluation.timing import interleave

    times = interleave({"a": lambda: {"first": 0.5}}, rounds=2)
    assert times.seconds["a: first"] == [0.5, 0.5]


def test_ratio_is_taken_round_by_round_so_that_drift_cancels() -> None:
    from latentpress.evaluation.timing import Timings

    drifting = Timings({"a": [1.0, 2.0, 4.0], "b": [0.5, 1.0, 2.0]})
    ratio = drifting.ratio("a", "b")
    assert (ratio.median, ratio.low, ratio.high, ratio.runs) == (2.0, 2.0, 2.0, 3)


def test_spread_is_median_lowest_highest() -> None:
    from latentpress.evaluation.timing import Spread

    spread = Spread.of([3.0, 1.0, 2.0, 10.0])
    assert (spread.median, spread.low, spread.high, spread.runs) == (2.5, 1.0, 10.0, 4)
    assert spread.over(2).median == 1.25


def test_collector_is_on_again_after_a_side_that_raises() -> None:
    import gc

    from latentpress.evaluation.timing import interleave

    def fail() -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        interleave({"a": fail}, rounds=1, warm=False)
    assert gc.isenabled()
