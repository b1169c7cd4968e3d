"""Settings come back as they were, and whatever does not belong is named."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from latentpress.checkpoints.config import SCHEMA_VERSION, BaseReference, PressConfig
from latentpress.decoder.prompt import PromptSettings
from latentpress.errors import PressError
from latentpress.lora import LoraSettings

FULL = PressConfig(
    name="full",
    base=BaseReference(id="org/base", fingerprint="ab12", width=64),
    encoder_base=BaseReference(id="other", fingerprint="cd34", width=48),
    encoder_layers=5,
    encoder_lora=LoraSettings(rank=3, alpha=7.5, rank_stabilised=False, dropout=0.1),
    decoder_lora=LoraSettings(rank=5),
    compressor="mean-pooling",
    policy="fixed",
    candidates=(3, 9),
    rounding="log",
    selection="document",
    converter_width=17,
    residual="none",
    window_tokens=33,
    prompt=PromptSettings(system="Sé breve {x}", context="C", between="B", question="Q {question}", summary="S\n"),
    trained={"steps": 3, "data": ["a", "b"], "nested": {"lr": 1e-4}},
)
SMALL = PressConfig(name="small", base=FULL.base)


def through_json(config: PressConfig) -> Any:
    return json.loads(json.dumps(config.to_dict()))


@pytest.mark.parametrize("config", [FULL, SMALL], ids=["full", "small"])
def test_settings_survive_json(config: PressConfig) -> None:
    assert PressConfig.from_dict(through_json(config), "here") == config


def test_every_setting_is_written() -> None:
    names = {field.name for field in dataclasses.fields(PressConfig)}
    assert set(FULL.to_dict()) == names | {"schema_version"}
    assert FULL.to_dict()["schema_version"] == SCHEMA_VERSION


def test_settings_with_a_default_may_be_left_out() -> None:
    data = {"schema_version": SCHEMA_VERSION, "name": "small", "base": through_json(SMALL)["base"]}
    assert PressConfig.from_dict(data, "here") == SMALL


@pytest.mark.parametrize("path", [(), ("base",), ("encoder_base",), ("encoder_lora",), ("prompt",)])
def test_an_unknown_key_is_named_at_any_depth(path: tuple[str, ...]) -> None:
    data = through_json(FULL)
    inner = data
    for key in path:
        inner = inner[key]
    inner["rnak"] = 3
    with pytest.raises(PressError, match=r"here.*unknown key 'rnak'; known are \w+"):
        PressConfig.from_dict(data, "here")


@pytest.mark.parametrize(
    "path", [("name",), ("base",), ("base", "id"), ("base", "fingerprint"), ("encoder_base", "width")]
)
def test_a_missing_key_is_named_at_any_depth(path: tuple[str, ...]) -> None:
    data = through_json(FULL)
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    with pytest.raises(PressError, match=f"here.*lacks the key '{path[-1]}'"):
        PressConfig.from_dict(data, "here")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", 3),
        ("name", None),
        ("base", "org/base"),
        ("base", None),
        ("encoder_base", []),
        ("encoder_layers", "5"),
        ("encoder_layers", 5.0),
        ("encoder_layers", True),
        ("encoder_lora", 8),
        ("compressor_settings", []),
        ("candidates", 4),
        ("candidates", "24"),
        ("candidates", [2, 4.0]),
        ("candidates", [2, None]),
        ("candidates", {"2": 4}),
        ("converter_width", None),
        ("window_tokens", "512"),
        ("prompt", ["Context"]),
        ("trained", []),
        ("residual", True),
    ],
)
def test_a_value_of_the_wrong_type_is_named(key: str, value: Any) -> None:
    with pytest.raises(PressError, match=f"here.*{key}.*(expected|must be an object)"):
        PressConfig.from_dict({**through_json(FULL), key: value}, "here")


@pytest.mark.parametrize(("key", "value"), [("alpha", "16"), ("alpha", None), ("rank", 4.5), ("rank_stabilised", 1)])
def test_a_value_of_the_wrong_type_is_named_inside_too(key: str, value: Any) -> None:
    data = through_json(FULL)
    data["decoder_lora"][key] = value
    with pytest.raises(PressError, match=f"here: decoder_lora: {key} is .*expected"):
        PressConfig.from_dict(data, "here")


def test_a_whole_number_will_do_where_a_fraction_may_stand() -> None:
    data = through_json(FULL)
    data["encoder_lora"]["alpha"] = 8
    alpha = PressConfig.from_dict(data, "here").encoder_lora.alpha
    assert alpha == 8.0
    assert isinstance(alpha, float)


@pytest.mark.parametrize("version", [0, 2, "1", None, 1.5])
def test_another_schema_version_is_refused(version: Any) -> None:
    with pytest.raises(PressError, match=f"here has schema_version {version!r}, this library reads {SCHEMA_VERSION}"):
        PressConfig.from_dict({**through_json(FULL), "schema_version": version}, "here")


@pytest.mark.parametrize("data", [None, [], "config", 3])
def test_what_is_no_object_is_refused(data: Any) -> None:
    with pytest.raises(PressError, match=f"here holds {type(data).__name__}, not an object"):
        PressConfig.from_dict(data, "here")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window_tokens": 0}, "window_tokens is 0, it must be at least 1"),
        ({"converter_width": -4}, "converter_width is -4"),
        ({"encoder_layers": 0}, "encoder_layers is 0"),
        ({"encoder_lora": LoraSettings(rank=0)}, r"encoder_lora\.rank is 0"),
        ({"decoder_lora": LoraSettings(rank=-1)}, r"decoder_lora\.rank is -1"),
        ({"decoder_lora": LoraSettings(dropout=1.0)}, r"decoder_lora\.dropout is 1\.0"),
        ({"encoder_lora": LoraSettings(dropout=float("nan"))}, r"encoder_lora\.dropout is nan"),
        ({"decoder_lora": LoraSettings(alpha=float("nan"))}, r"decoder_lora\.alpha is nan"),
        ({"prompt": PromptSettings(question="Question?")}, r"prompt\.question is 'Question\?'"),
    ],
)
def test_values_that_cannot_be_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PressError, match=f"press 'full': {message}"):
        dataclasses.replace(FULL, **changes)


def test_a_press_without_a_name_is_refused() -> None:
    with pytest.raises(PressError, match="name of the press is empty"):
        dataclasses.replace(FULL, name="")
