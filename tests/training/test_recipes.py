"""Recipes say everything that a training depends on; overrides change it, and mistakes are named."""

from __future__ import annotations

import ast
import dataclasses
import math
from pathlib import Path

import pytest

import latentpress.training
from latentpress.checkpoints.config import BaseReference, PressConfig
from latentpress.compressors import Length
from latentpress.decoder.prompt import PromptSettings
from latentpress.errors import InputError
from latentpress.lora import LoraSettings
from latentpress.training.overrides import make_recipe, overridden
from latentpress.training.recipes import RECIPES, Recipe
from latentpress.training.schedules import RatioPhase

FOLDER = Path(latentpress.training.__file__).parent


def read_settings() -> set[str]:
    """Names of settings that some code reads: attributes of a `recipe`, or of `self` in Recipe, but to check them."""
    read: set[str] = set()
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and node.name == "Recipe":
                methods = [part for part in node.body if isinstance(part, ast.FunctionDef)]
                used = [part for method in methods if method.name not in CHECKS for part in ast.walk(method)]
                read |= {part.attr for part in used if isinstance(part, ast.Attribute) and named(part.value, "self")}
            if isinstance(node, ast.Attribute) and named(node.value, "recipe"):
                read.add(node.attr)
    return read


CHECKS = {"__post_init__", "_check_numbers"}


def named(node: ast.expr, name: str) -> bool:
    return (isinstance(node, ast.Name) and node.id == name) or (isinstance(node, ast.Attribute) and node.attr == name)


def test_no_setting_goes_unread() -> None:
    unread = {field.name for field in dataclasses.fields(Recipe)} - read_settings()
    assert unread == set()


def test_every_setting_of_a_press_comes_from_the_recipe() -> None:
    base = BaseReference(id="b", fingerprint="f", width=8)
    recipe = make_recipe(
        "semidynamic",
        [
            *(
                "press=p",
                "encoder_layers=3",
                "encoder_lora.rank=5",
                "decoder_lora.alpha=7",
                "compressor=comprexit",
                "compressor_settings.query_width=7",
                "policy=continuous",
                "length_exponent=0.5",
            ),
            *("candidates=3,5", "ratio_schedule=", "rounding=log", "converter_width=9", "residual=mean"),
            *("selection=document", "window_tokens=11", "prompt_vectors=3", "prompt.system=s", "prompt.between= and "),
        ],
    )
    config, plain = recipe.press_config(base, {"a": 1}), PressConfig(name="p", base=base)
    assert config.base is base
    assert config.trained == {"a": 1}
    for field in dataclasses.fields(PressConfig):
        if field.name in ("name", "base", "encoder_base", "trained"):
            continue
        given = getattr(recipe, field.name)
        assert getattr(config, field.name) == given
        assert given != getattr(plain, field.name), f"{field.name} is not changed by this test"


def test_the_recipe_of_the_shipped_press_is_its_four_parts_in_one_run() -> None:
    recipe = make_recipe("semidynamic")
    assert recipe.press == "semidynamic-smollm2-135m"
    assert recipe.candidates == (2, 4, 8, 16, 32)
    assert (recipe.steps, recipe.tokens_per_step, recipe.max_context_tokens) == (5700, 600, 512)
    assert (recipe.learning_rate, recipe.other_learning_rate) == (5e-4, 5e-4)
    assert recipe.residual_sharpness == 1.0
    assert [(phase.start, phase.quotes) for phase in recipe.quote_schedule] == [(0, 2), (0.1, 1), (0.85, 0)]
    assert recipe.ratio_schedule == (
        RatioPhase(start=0, weights=(3, 5, 2, 0, 0)),
        RatioPhase(start=0.05, weights=(8, 30, 30, 24, 8)),
    )
    assert (recipe.long_documents, recipe.long_document_tokens, recipe.related_documents) == (0.05, 4200, 0.7)
    assert (recipe.log_every, recipe.save_every, recipe.eval_every) == (20, 100, 570)
    assert (recipe.dev_records, recipe.dev_rows, recipe.dev_ratios, recipe.f1_questions) == (100, 16, (4, 16), 32)


def test_the_reader_reads_the_first_tokens_with_the_settings_that_were_measured() -> None:
    recipe = make_recipe("reader")
    assert (recipe.compressor, recipe.policy, recipe.residual) == ("first-tokens", "fixed", "none")
    assert (recipe.steps, recipe.tokens_per_step, recipe.max_context_tokens) == (600, 1000, 512)
    assert (recipe.learning_rate, recipe.other_learning_rate) == (5e-4, 5e-4)
    assert (recipe.multi_document, recipe.dev_ratios, recipe.dev_rows) == (0.0, (1, 4), 24)


@pytest.mark.parametrize("name", ["last-tokens", "compression-tokens"])
def test_other_ways_of_extraction_differ_from_the_first_in_nothing_else(name: str) -> None:
    """So that presses trained with equal settings compare the ways; an embedding residual has no place beside them."""
    recipe = make_recipe(name)
    means = make_recipe("semidynamic", ["residual=none"])
    assert (recipe.compressor, recipe.residual, recipe.press) == (name, "none", f"{name}-smollm2-135m")
    given = {"recipe": recipe.recipe, "press": recipe.press, "compressor": name}
    assert dataclasses.replace(means, **given) == recipe


def test_settings_of_the_ways_of_extraction_are_overrides() -> None:
    shared = make_recipe("compression-tokens", ["compressor_settings.embeddings=shared"])
    assert shared.compressor_settings == {"embeddings": "shared"}
    causal = make_recipe("semidynamic", ["compressor_settings.attention=causal"])
    assert causal.compressor_settings == {"attention": "causal"}
    assert causal.identity() != make_recipe("semidynamic").identity()
    with pytest.raises(InputError, match="'one' is unknown; choose one of different, shared"):
        make_recipe("compression-tokens", ["compressor_settings.embeddings=one"])
    with pytest.raises(InputError, match="compressor 'last-tokens' has no setting of its own"):
        make_recipe("last-tokens", ["compressor_settings.attention=causal"])


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_named_as_it_is_asked_for_and_makes_a_press(name: str) -> None:
    recipe = make_recipe(name)
    assert recipe.recipe == name
    assert recipe.press_config(BaseReference(id="b", fingerprint="f", width=8), {}).name == recipe.press


def test_overrides_are_read_as_the_type_of_their_setting() -> None:
    recipe = make_recipe(
        "semidynamic",
        [
            *("steps=2_000", "learning_rate=2e-4", "encoder_layers=None", "candidates=4, 8", "ratio_schedule=0:1/3"),
            *("exclude_sources=zh_,subjqa", "encoder_lora.rank_stabilised=TRUE", "encoder_lora.rank=4"),
            *("quote_schedule=", "prompt.question= Q: {question}", "schedule = constant"),
        ],
    )
    assert (recipe.steps, recipe.learning_rate, recipe.encoder_layers) == (2000, 2e-4, None)
    assert (recipe.candidates, recipe.ratio_schedule) == ((4, 8), (RatioPhase(start=0, weights=(1, 3)),))
    assert (recipe.exclude_sources, recipe.quote_schedule) == (("zh_", "subjqa"), ())
    assert recipe.encoder_lora == LoraSettings(rank=4, alpha=32.0, rank_stabilised=True)
    assert recipe.prompt == PromptSettings(question=" Q: {question}")  # its white space is part of a prompt
    assert recipe.schedule == "constant"
    assert overridden(["steps=1", "prompt.question=x=y", " candidates = 2"]) == {"steps", "prompt", "candidates"}


@pytest.mark.parametrize("name", ["semidynamic", "semidynamic-paper", "last-tokens", "compression-tokens"])
def test_lengths_can_be_trained_by_any_recipe_of_an_encoder(name: str) -> None:
    recipe = make_recipe(name, ["policy=length-selector", "candidates=16,32,64,128"])
    assert recipe.ratio_schedule == ()  # the recipe's is of ratios
    assert (recipe.dev_ratios, recipe.f1_ratio) == ((), 128)
    given = make_recipe(
        name,
        [
            *("policy=fixed-length", "candidates=16,64", "ratio_schedule=0:1/3"),
            *("dev_ratios=64", "f1_ratio=16", "selection=document"),
        ],
    )
    assert given.ratio_schedule == (RatioPhase(start=0, weights=(1, 3)),)
    assert (given.dev_ratios, given.f1_ratio, given.selection) == ((64,), 16, "document")
    assert given.ratio_policy().fixed(64) == Length(64)
    assert given.ratio_policy().selection == "document"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["candidates=2,4", "ratio_schedule="], 4),
        (["candidates=8,16", "ratio_schedule="], 8),
        (["candidates=1,2", "ratio_schedule="], 2),
        (["candidates=2,8", "ratio_schedule="], 2),  # both are as near: the one that keeps more
        (["candidates=8,32", "ratio_schedule=", "policy=continuous"], 8),
        (["candidates=2,32", "ratio_schedule=", "policy=continuous"], 4),  # any whole ratio in between
        (["candidates=8,16", "ratio_schedule=", "f1_ratio=16"], 16),
    ],
)
def test_questions_are_answered_at_a_size_that_the_press_has(overrides: list[str], expected: int) -> None:
    assert make_recipe("semidynamic", overrides).f1_ratio == expected


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["f1_ratio=3"], r"f1_ratio=3 is no ratio that .* choose one of 2, 4, 8, 16, 32, or leave it out"),
        (["candidates=8,16", "ratio_schedule=", "f1_ratio=4"], "f1_ratio=4 is no ratio .* choose one of 8, 16"),
        (["policy=continuous", "f1_ratio=33"], "f1_ratio=33 is no ratio .* choose a whole number from 2 to 32"),
        (["policy=fixed-length", "candidates=16,64", "f1_ratio=4"], "f1_ratio=4 is no length .* choose one of 16, 64"),
    ],
)
def test_a_size_for_questions_that_the_press_lacks_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_recipe("semidynamic", overrides)


def test_the_bound_can_be_trained_by_length_too() -> None:
    recipe = make_recipe("reader", ["policy=fixed-length", "candidates=16,128"])
    assert recipe.ratio_policy().ordered() == (Length(128), Length(16))


def test_a_policy_of_the_same_kind_keeps_the_schedule_of_the_candidates() -> None:
    assert make_recipe("semidynamic", ["policy=continuous"]).ratio_schedule == make_recipe("semidynamic").ratio_schedule


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        (
            "semidynamic",
            ["policy=length-selector"],
            "takes lengths, and the candidates 2, 4, 8, 16, 32 of recipe 'semidynamic' are ratios; "
            "give candidates=16,32,64,128 too",
        ),
        (
            "comprexit-ntp",
            ["policy=fixed-length", "candidates=16"],
            "ratio policy 'fixed-length' chooses lengths, and compressor 'comprexit' makes ratios only",
        ),
        (
            "comprexit-sft",
            ["policy=length-selector"],
            "ratio policy 'length-selector' chooses lengths, and compressor 'comprexit' makes ratios only",
        ),
        (
            "reader",
            ["policy=selector"],
            "ratio policy 'selector' predicts from an encoder's states, and compressor 'first-tokens' has no encoder",
        ),
        ("semidynamic", ["selection=page"], "selection='page' is unknown; choose one of window, document"),
    ],
)
def test_policies_that_do_not_go_with_a_recipe_are_refused_before_any_data_is_read(
    name: str, overrides: list[str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        make_recipe(name, overrides)


def test_adapters_can_be_left_out_and_compressors_have_settings_of_their_own() -> None:
    plain = ["compressor=comprexit", "residual=none", "policy=fixed"]
    recipe = make_recipe(
        "semidynamic",
        [
            *(*plain, "encoder_lora=none", "decoder_lora=None", "decoder_lora.rank=3"),
            *("compressor_settings.segment_tokens=64", "compressor_settings.layer=-1"),
        ],
    )
    assert recipe.encoder_lora is None
    assert recipe.decoder_lora == LoraSettings(rank=3)
    assert recipe.compressor_settings == {"segment_tokens": 64, "layer": -1}
    assert make_recipe("semidynamic", ["compressor_settings.layer=2", *plain]).compressor_settings == {"layer": 2}
    for name in ("segment", "segment_tokens.x"):
        with pytest.raises(
            InputError, match=r"compressor_settings has the settings compressor_settings\.segment_tokens"
        ):
            make_recipe("semidynamic", [*plain, f"compressor_settings.{name}=64"])
    with pytest.raises(InputError, match="expected a whole number"):
        make_recipe("semidynamic", [*plain, "compressor_settings.iterations=many"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "compressor_settings=64",
            r"compressor_settings has the settings compressor_settings\.attention; set one of them",
        ),
        ("compressor_settings.segment_tokens=64", r"has the settings compressor_settings\.attention; set one of them"),
        ("compressor_settings.attention=sideways", "sideways' is unknown; choose one of bidirectional, causal"),
        ("stepz=1", "recipe 'semidynamic' has no setting 'stepz'; choose one of press, seed,"),
        ("recipe=x", "no setting 'recipe'"),
        ("steps", "'steps' is not name=value"),
        ("steps=many", "steps='many' cannot be read; expected a whole number"),
        ("steps=1.5", "expected a whole number"),
        ("learning_rate=fast", "expected a number"),
        ("learning_rate=nan", "learning_rate=nan must be 0 or more"),
        ("learning_rate=-1", "learning_rate=-1 must be 0 or more"),
        ("steps=0", "steps=0 must be 1 or more"),
        ("save_every=0", "save_every=0 must be 1 or more"),
        ("quote_tokens=4", "quote_tokens=4 must be 5 or more"),
        ("max_context_tokens=4", "max_context_tokens=4 must be 5 or more"),
        ("clip=inf", "clip=inf must be 0 or more"),
        ("seed=-1", "seed=-1 must be between 0 and 4294967295"),
        ("beta2=1", "beta2=1 must be between 0 and 0.999999"),
        ("multi_document=1.5", "multi_document=1.5 must be between 0 and 1"),
        ("related_documents=-1", "related_documents=-1 must be between 0 and 1"),
        ("residual_sharpness=inf", "residual_sharpness=inf must be a number"),
        ("dtype=float16", "dtype='float16' is unknown; choose one of auto, bfloat16, float32"),
        ("schedule=cosine", "choose one of linear, constant"),
        ("rounding=up", "choose one of linear, log"),
        ("encoder_lora=8", "encoder_lora has the settings encoder_lora.rank, "),
        ("encoder_lora.size=8", "set one of them, not 'encoder_lora.size'"),
        ("encoder_lora.rank_stabilised=maybe", "expected true or false"),
        ("steps.inner=8", "steps has no inner settings; write steps=value"),
        ("prompt.question=Question?", r"no place for the question; write \{question\}"),
        ("candidates=2,x", "expected a whole number"),
        ("candidates=2,4", r"gives the weights 3/5/2/0/0; give one a candidate \(2, 4\)"),
        ("ratio_schedule=0:1/1", "gives the weights 1/1; give one a candidate"),
        ("ratio_schedule=0:0/0/0/0/0", "not all 0"),
        ("ratio_schedule=0:1/1/1/1/-1", "none below 0"),
        ("ratio_schedule=0:1/1/1/1/nan", "gives the weights 1/1/1/1/nan"),
        ("ratio_schedule=1/1/1/1/1", "expected phases such as 0:1/1/1/0/0"),
        ("ratio_schedule=0.5:1/1/1/1/1", "phases that start at 0.5; the first starts at 0"),
        ("ratio_schedule=0:1/1/1/1/1,0.5:1/1/1/1/1,0.2:1/1/1/1/1", "ascending order below 1"),
        ("quote_schedule=0:1,1:2", "quote_schedule has phases that start at 0, 1"),
        ("quote_schedule=0:1,nan:2", "phases that start at 0, nan"),
        ("quote_schedule=0:1,0:2", "phases that start at 0, 0"),
        ("quote_schedule=0:-1", "fewer than 0 quotes"),
        ("quote_schedule=0:many", "expected phases such as 0:3,0.5:1"),
    ],
)
def test_mistakes_are_named_with_what_is_valid(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_recipe("semidynamic", [override])


def test_an_unknown_recipe_is_named_with_the_known_ones() -> None:
    with pytest.raises(
        InputError,
        match="recipe 'fast' is unknown; choose one of semidynamic, semidynamic-kv, last-tokens, compression-tokens, ",
    ):
        make_recipe("fast")


def test_identity_holds_every_setting_but_those_that_change_no_weight() -> None:
    recipe = make_recipe("semidynamic", ["distill=0.5"])
    free = {
        "teacher_cache",
        "log_every",
        "eval_every",
        "save_every",
        "dev_rows",
        "dev_ratios",
        "f1_questions",
        "f1_ratio",
        "tokens_per_pass",
    }
    assert set(recipe.identity()) == {field.name for field in dataclasses.fields(Recipe)} - free
    for name in free:
        value = {"dev_ratios": (2, 8), "teacher_cache": "there"}.get(name, 3)
        assert dataclasses.replace(recipe, **{name: value}).identity() == recipe.identity()
    assert dataclasses.replace(recipe, prompt=PromptSettings(context="C: ")).identity() != recipe.identity()


def test_a_setting_that_is_given_as_it_usually_is_does_not_make_another_run() -> None:
    plain = make_recipe("comprexit-ntp")
    given = make_recipe(
        "comprexit-ntp", ["compressor_settings.segment_tokens=128", "compressor_settings.layer=none", "clip=20"]
    )
    assert given.compressor_settings == {"segment_tokens": 128, "layer": None}
    assert given.identity() == plain.identity()
    other = make_recipe("comprexit-ntp", ["compressor_settings.segment_tokens=64", "compressor_settings.layer=none"])
    assert other.identity()["compressor_settings"] == {"segment_tokens": 64}


def test_learning_rate_rises_then_falls_to_a_tenth_by_steps() -> None:
    recipe = make_recipe("semidynamic", ["steps=1000", "warmup_steps=100"])
    factors = [recipe.learning_rate_factor(step) for step in range(1000)]
    peak = factors.index(max(factors))
    assert factors[0] == pytest.approx(1 / 101)
    assert 95 <= peak <= 101
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    assert factors[-1] == pytest.approx(0.1, abs=1e-3)
    constant = make_recipe("semidynamic", ["steps=1000", "warmup_steps=0", "schedule=constant"])
    assert {constant.learning_rate_factor(step) for step in range(1000)} == {1.0}
    assert math.isclose(make_recipe("semidynamic", ["warmup_steps=0"]).learning_rate_factor(0), 1.0)


def test_a_compressor_without_settings_has_none_to_override() -> None:
    with pytest.raises(InputError, match="compressor 'first-tokens' has no setting of its own; leave"):
        make_recipe("reader", ["compressor_settings.segment_tokens=64"])


def test_another_compressor_starts_from_its_own_usual_settings() -> None:
    recipe = make_recipe("comprexit-tuned-latents", ["compressor=mean-pooling"])
    assert recipe.compressor_settings == {}
    recipe = make_recipe("comprexit-tuned-latents", ["compressor_settings.transport=window", "compressor=comprexit"])
    assert recipe.compressor_settings == {"locality": 0.5, "normalise": True, "transport": "window"}
