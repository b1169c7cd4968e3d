"""The embedding path against naive loops: weighted means of each window's own embeddings."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from latentpress.errors import PressError
from latentpress.residual import EmbeddingResidual

VOCABULARY, WIDTH, STATES = 20, 6, 5


def inputs(counts: list[int], seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """Embeddings, ids, states, window of each token, and number of windows, of windows with so many tokens."""
    draw = torch.Generator().manual_seed(seed)
    tokens = sum(counts)
    index = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    ids = torch.randint(0, VOCABULARY, (tokens,), generator=draw)
    return (
        torch.randn(tokens, WIDTH, generator=draw),
        ids,
        torch.randn(tokens, STATES, generator=draw),
        index,
        len(counts),
    )


def residual(kind: str, *, trained: bool = True) -> EmbeddingResidual:
    module = EmbeddingResidual(kind, VOCABULARY, STATES)
    if trained:
        with torch.no_grad():
            for i, parameter in enumerate(module.parameters()):
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)))
    return module


def naive(
    module: EmbeddingResidual, embeddings: Tensor, ids: Tensor, states: Tensor, index: Tensor, windows: int
) -> Tensor:
    rows = []
    for window in range(windows):
        mine = [t for t in range(len(ids)) if index[t] == window]
        if module.kind == "mean":
            weights = torch.ones(len(mine))
        else:
            scores = []
            for t in mine:
                normed = states[t] / states[t].square().mean().sqrt()
                scores.append(module.salience[ids[t]] + module.read.weight[0] @ normed)
            weights = torch.stack(scores).exp()
        rows.append(sum(w * embeddings[t] for w, t in zip(weights, mine, strict=True)) / weights.sum())
    return module.log_gain.exp() * torch.stack(rows)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["mean", "salient"])
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 50))
@settings(max_examples=25)
def test_each_latent_gets_the_weighted_mean_of_its_window(kind: str, counts: list[int], seed: int) -> None:
    module, data = residual(kind), inputs(counts, seed)
    torch.testing.assert_close(module(*data), naive(module, *data), atol=1e-5, rtol=1e-4)


def test_salience_starts_as_the_plain_mean() -> None:
    data = inputs([4, 1, 7])
    fresh = [residual(kind, trained=False)(*data) for kind in ("mean", "salient")]
    torch.testing.assert_close(*fresh)


def test_the_salience_that_it_is_started_from_is_surprisal() -> None:
    module = residual("salient", trained=False)
    counts = torch.zeros(VOCABULARY)
    counts[3] = 79
    module.start_from(counts, 0.5)
    expected = torch.full((VOCABULARY,), 0.5 * torch.log(torch.tensor(99.0)).item())
    expected[3] = 0.5 * torch.log(torch.tensor(99 / 80)).item()
    torch.testing.assert_close(module.salience.detach(), expected)


def test_sharpness_one_weighs_by_the_inverse_frequency() -> None:
    module = residual("salient", trained=False)
    counts = torch.zeros(VOCABULARY)
    counts[3], counts[4] = 7, 1  # 8 and 2, smoothed
    module.start_from(counts, 1.0)
    embeddings = torch.eye(2, WIDTH)
    made = module(embeddings, torch.tensor([3, 4]), torch.zeros(2, STATES), torch.zeros(2, dtype=torch.int64), 1)
    torch.testing.assert_close(made[0, :2], torch.tensor([0.2, 0.8]))


def test_a_mean_has_no_salience_to_start() -> None:
    residual("mean", trained=False).start_from(torch.ones(VOCABULARY), 1.0)


@pytest.mark.parametrize("size", [1e3, -1e3, 1e30])
def test_extreme_scores_neither_overflow_nor_divide_by_zero(size: float) -> None:
    module = residual("salient")
    with torch.no_grad():
        module.salience.mul_(size)
    data = inputs([3, 5])
    data[0].requires_grad_()
    made = module(*data)
    made.sum().backward()
    assert bool(made.isfinite().all())
    assert all(bool(p.grad.isfinite().all()) for p in module.parameters() if p.grad is not None)


def test_states_of_zero_are_read_as_nothing() -> None:
    module, data = residual("salient"), list(inputs([3]))
    data[2] = torch.zeros(3, STATES)
    assert bool(module(*data).isfinite().all())


@pytest.mark.parametrize("kind", ["mean", "salient"])
def test_a_window_is_the_same_in_any_company(kind: str) -> None:
    module = residual(kind)
    embeddings, ids, states, index, windows = inputs([4, 2, 6])
    packed = module(embeddings, ids, states, index, windows)
    for window in range(windows):
        mine = index == window
        alone = module(embeddings[mine], ids[mine], states[mine], torch.zeros(int(mine.sum()), dtype=torch.int64), 1)
        torch.testing.assert_close(packed[window], alone[0], atol=1e-6, rtol=1e-6)


def test_gradients_reach_every_parameter() -> None:
    module = residual("salient")
    module(*inputs([4, 2, 6])).square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.any()), name


def test_the_gradients_are_the_numerical_ones() -> None:
    module = residual("salient")
    data = inputs([3, 2])
    module(*data).square().sum().backward()
    expected = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    naive(module, *data).square().sum().backward()
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-4, rtol=1e-4)


def test_the_result_is_float32_whatever_the_embeddings_are() -> None:
    data = list(inputs([3]))
    data[0], data[2] = data[0].to(torch.bfloat16), data[2].to(torch.bfloat16)
    assert {residual(kind)(*data).dtype for kind in ("mean", "salient")} == {torch.float32}


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(PressError, match="residual 'most' is unknown; choose one of none, mean, salient"):
        EmbeddingResidual("most", VOCABULARY, STATES)
