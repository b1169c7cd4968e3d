"""Windows of equal weight."""

from __future__ import annotations

import pytest
import torch

from latentpress.compressors import Length, Ratio
from latentpress.compressors.base import weighted_windows, window_index


@pytest.mark.parametrize(
    ("weights", "count", "windows"),
    [
        ([1, 1, 1, 1], 2, [0, 0, 1, 1]),
        ([4, 1, 1, 1, 1], 2, [0, 1, 1, 1, 1]),
        ([9, 1, 1], 2, [0, 1, 1]),  # capped at 2: a window of its own, and no more
        ([1, 1, 9, 1, 1], 3, [0, 0, 1, 2, 2]),
        ([9, 9, 1, 1, 9, 1], 4, [0, 1, 2, 2, 3, 3]),  # all three capped at 3
        ([3, 1, 2], 1, [0, 0, 0]),
        ([3, 1, 2], 3, [0, 1, 2]),
    ],
)
def test_hand_worked(weights: list[float], count: int, windows: list[int]) -> None:
    assert weighted_windows(torch.tensor(weights), count).tolist() == windows


def test_every_window_has_a_token_and_its_share_of_the_weight() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(500):
        tokens = int(torch.randint(1, 60, (), generator=generator))
        count = int(torch.randint(1, tokens + 1, (), generator=generator))
        weights = torch.rand(tokens, generator=generator).mul(6).exp()
        windows = weighted_windows(weights, count)
        assert windows[0] == 0
        assert windows[-1] == count - 1
        assert set(windows.diff().tolist()) <= {0, 1}
        if count == tokens:
            continue
        cap = weights.double()
        for _ in range(200):  # the cap, found by going towards it
            cap = weights.double().clamp_max(float(cap.sum()) / count)
        share = float(cap.sum()) / count
        held = torch.zeros(count, dtype=torch.float64).index_add(0, windows, cap)
        assert (held < 2 * share + 1e-6).all()  # half a token more at either end


def test_equal_weights_cut_as_a_ratio_does_where_it_divides_the_text() -> None:
    sizes = (Ratio(4), Length(2), Ratio(3))
    even = window_index((12, 10, 9), sizes, torch.device("cpu"))
    weighted = window_index((12, 10, 9), sizes, torch.device("cpu"), torch.full((31,), 0.7))
    assert torch.equal(weighted[0], even[0])
    assert weighted[1] == even[1]
    assert torch.equal(weighted[2], even[2])


def test_a_text_is_cut_alike_whatever_stands_beside_it() -> None:
    weights = torch.rand(20, generator=torch.Generator().manual_seed(1)) + 0.1
    alone = window_index((8,), (Ratio(3),), torch.device("cpu"), weights[12:])
    beside = window_index((12, 8), (Ratio(2), Ratio(3)), torch.device("cpu"), weights)
    assert torch.equal(beside[0][12:] - beside[1][0], alone[0])
