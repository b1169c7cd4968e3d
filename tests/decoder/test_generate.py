"""Answers do not depend on the batch they are generated in, and are those of the model itself."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from latentpress.attention import KeyValueCache
from latentpress.backbone import Backbone
from latentpress.decoder.generate import Sampling, embed_pieces, generate, prefill
from latentpress.errors import InputError

if TYPE_CHECKING:
    from latentpress.backbone import Base

NEVER: frozenset[int] = frozenset()
LENGTHS = (3, 17, 1, 9)


def ids_of(count: int, seed: int = 0) -> list[int]:
    return [int(i) for i in torch.randint(3, 300, (count,), generator=torch.Generator().manual_seed(seed))]


def prompts_of(backbone: Backbone) -> list[Tensor]:
    """Prompts of tokens and latents, of different lengths."""
    latents = [torch.randn(4, backbone.width, generator=torch.Generator().manual_seed(1))]
    prompts = [embed_pieces(backbone, [ids_of(n, n)], []) for n in LENGTHS]
    return [*prompts, torch.cat([prompts[0], *latents, prompts[3]])]


def answers(backbone: Backbone, prompts: list[Tensor], stops: frozenset[int], sampling: Sampling) -> list[list[int]]:
    cache = KeyValueCache(len(prompts))
    states = prefill(backbone, prompts, cache)
    made: list[list[int]] = [[] for _ in prompts]
    ended = [False] * len(prompts)
    for row in generate(backbone, states, cache, stops, sampling):
        assert len(row) == len(prompts)
        for i, token in enumerate(row):
            assert not (ended[i] and token is not None), "an answer that ended went on"
            ended[i] = token is None
            if token is not None:
                made[i].append(token)
    return made


def test_greedy_answers_are_those_of_the_model_itself(tiny_bases: Base) -> None:
    backbone = Backbone(tiny_bases.model)
    ids = ids_of(9)
    (made,) = answers(backbone, [backbone.embed(torch.tensor(ids))], NEVER, Sampling(max_new_tokens=20))
    expected = [*ids]
    with torch.no_grad():
        for _ in range(20):
            logits = tiny_bases.model(input_ids=torch.tensor([expected]), use_cache=False).logits
            expected.append(int(logits[0, -1].argmax()))
    assert made == expected[9:]


def test_the_logits_of_a_batch_are_those_of_each_prompt_alone(tiny_bases: Base) -> None:
    backbone = Backbone(tiny_bases.model)
    prompts = prompts_of(backbone)
    order = (3, 0, 4, 1, 2)
    batched = backbone.logits(prefill(backbone, [prompts[i] for i in order], KeyValueCache(len(prompts))))
    for place, i in enumerate(order):
        alone = backbone.logits(prefill(backbone, [prompts[i]], KeyValueCache(1)))
        torch.testing.assert_close(batched[place], alone[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.0, 0.3])
def test_batched_answers_are_those_of_each_prompt_alone(tiny_bases: Base, temperature: float) -> None:
    """Also when they end at different times, and when they are sampled."""
    backbone = Backbone(tiny_bases.model)
    prompts = prompts_of(backbone)
    sampling = Sampling(max_new_tokens=12, temperature=temperature, seed=5)
    free = answers(backbone, prompts, NEVER, sampling)
    common = Counter(token for answer in free for token in answer[2:])
    stops = frozenset(token for token, _ in common.most_common(2))
    alone = [answers(backbone, [prompt], stops, sampling)[0] for prompt in prompts]
    assert answers(backbone, prompts, stops, sampling) == alone
    assert answers(backbone, prompts[::-1], stops, sampling) == alone[::-1]
    assert len({len(answer) for answer in alone}) > 1


def test_an_answer_ends_before_its_stop_token(tiny_base: Base) -> None:
    backbone = Backbone(tiny_base.model)
    prompt = backbone.embed(torch.tensor(ids_of(9)))
    (free,) = answers(backbone, [prompt], NEVER, Sampling(max_new_tokens=10))
    for token in set(free):
        (cut,) = answers(backbone, [prompt], frozenset({token}), Sampling(max_new_tokens=10))
        assert cut == free[: free.index(token)]


@pytest.mark.parametrize("most", [1, 2, 7])
def test_an_answer_has_at_most_the_tokens_asked_for(tiny_base: Base, most: int) -> None:
    backbone = Backbone(tiny_base.model)
    made = answers(backbone, prompts_of(backbone), NEVER, Sampling(max_new_tokens=most))
    assert [len(answer) for answer in made] == [most] * 5


def test_no_pass_is_made_beyond_the_last_token(tiny_base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = Backbone(tiny_base.model)
    passes = []
    forward = Backbone.forward
    monkeypatch.setattr(Backbone, "forward", lambda *args: passes.append(1) or forward(*args))
    answers(backbone, [backbone.embed(torch.tensor([5, 6]))], NEVER, Sampling(max_new_tokens=4))
    assert len(passes) == 4  # the prompt, and each new token but the last


def test_a_question_behind_a_forked_prefix_is_answered_as_the_whole_prompt(tiny_bases: Base) -> None:
    backbone = Backbone(tiny_bases.model)
    prefix, question = backbone.embed(torch.tensor(ids_of(14))), backbone.embed(torch.tensor(ids_of(5, 1)))
    cache = KeyValueCache(1)
    prefill(backbone, [prefix], cache)
    whole = answers(backbone, [torch.cat([prefix, question])], NEVER, Sampling(max_new_tokens=8))[0]
    for _ in range(2):
        fork = cache.fork()
        states = prefill(backbone, [question], fork)
        made = [row[0] for row in generate(backbone, states, fork, NEVER, Sampling(max_new_tokens=8))]
        assert made == whole
    assert cache.length(0) == 14


def sampled(base: Base, **settings: Any) -> list[int]:
    backbone = Backbone(base.model)
    prompt = backbone.embed(torch.tensor(ids_of(6)))
    return answers(backbone, [prompt], NEVER, Sampling(max_new_tokens=6, **settings))[0]


def test_sampling_is_a_function_of_the_seed(tiny_base: Base) -> None:
    drawn = [sampled(tiny_base, temperature=2.0, seed=seed) for seed in range(5)]
    assert drawn == [sampled(tiny_base, temperature=2.0, seed=seed) for seed in range(5)]
    assert len(set(map(tuple, drawn))) > 1


def test_sampling_leaves_the_global_generator_alone(tiny_base: Base) -> None:
    before = torch.random.get_rng_state()
    sampled(tiny_base, temperature=1.0)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("temperature", [1e-30, 1e-320, 1e30])
def test_extreme_temperatures_stay_finite(tiny_base: Base, temperature: float) -> None:
    made = sampled(tiny_base, temperature=temperature)
    assert len(made) == 6
    if temperature < 1:
        assert made == sampled(tiny_base)


def test_samples_follow_the_softmax_of_the_logits_over_the_temperature(tiny_base: Base) -> None:
    backbone = Backbone(tiny_base.model)
    cache = KeyValueCache(1)
    states = prefill(backbone, [backbone.embed(torch.tensor(ids_of(6)))], cache)
    expected = torch.softmax(backbone.logits(states)[0] / 0.5, -1)
    likely = int(expected.argmax())
    draws = 400
    hits = 0
    for seed in range(draws):
        (row,) = generate(backbone, states, cache, NEVER, Sampling(max_new_tokens=1, temperature=0.5, seed=seed))
        hits += row[0] == likely
    p = float(expected[likely])
    assert 0.02 < p < 0.98
    assert abs(hits - draws * p) < 5 * math.sqrt(draws * p * (1 - p))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"max_new_tokens": -3}, "max_new_tokens=-3"),
        ({"temperature": -0.1}, "temperature=-0.1"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"temperature": math.inf}, "temperature=inf"),
        ({"temperature": "1"}, "temperature='1'"),
        ({"max_new_tokens": 2.5}, "max_new_tokens=2.5"),
        ({"max_new_tokens": None}, "max_new_tokens=None"),
        ({"seed": 1.5}, "seed=1.5"),
        ({"seed": 2**70}, "at most 64 bits"),
    ],
)
def test_settings_that_cannot_be_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Sampling(**settings)
