"""The form of overrides: the same fields and bounds as the configuration that they change."""

import pytest
from pydantic import ValidationError

from turbosparse.config import AccessConfig, Overrides, PipelineConfig, resolve
from turbosparse.config.overrides import Partial
from turbosparse.errors import ConfigError

BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")


def parts() -> list[tuple[str, type[Partial], type]]:
    sections = {name: info.annotation for name, info in Overrides.model_fields.items()}
    return [
        (name, part, PipelineConfig.model_fields[name].annotation)
        for name, part in sections.items()
        if name != "assignments"
    ]


@pytest.mark.parametrize(("name", "form", "config"), parts(), ids=str)
def test_every_field_of_the_form_has_its_configurations_bounds_and_help(name, form, config):
    offered, real = form.model_json_schema()["properties"], config.model_json_schema()["properties"]
    for field, schema in offered.items():
        wanted = next((kind for kind in real[field].get("anyOf", []) if kind["type"] != "null"), real[field])
        for bound in (*BOUNDS, "enum", "type"):
            assert schema.get(bound) == wanted.get(bound), f"{name}.{field} {bound}"
        assert schema["description"]
        assert "default" not in schema, "an empty field must not be sent as null"


def test_an_empty_form_changes_nothing():
    assert Overrides().tree() == {}
    assert Overrides.model_validate(Overrides().model_dump(mode="json")).tree() == {}


def test_what_was_filled_in_reaches_the_configuration():
    sent = {
        "data": {"num_tokens": 40_000},
        "pretrain": {"num_steps": 7, "warmup_steps": 1},
        "evaluate": {"tasks": ["local_cloze"]},
        "assignments": ["pretrain.weight_decay=0.2", "pretrain.num_steps=8"],
    }
    overrides = Overrides.model_validate(Overrides.model_validate(sent).model_dump(mode="json"))
    config = resolve("tiny", overrides.tree())
    assert (config.data.num_tokens, config.pretrain.num_steps) == (40_000, 8)
    assert config.pretrain.weight_decay == 0.2
    assert config.evaluate.tasks == ("local_cloze",)
    assert config.finetune == resolve("tiny").finetune


def test_a_field_beyond_the_form_passes_and_null_stays_null():
    tree = {"pretrain": {"distillation": None}, "convert": {"base": {"num_steps": 3}}}
    assert Overrides.model_validate(tree).tree() == tree


def test_a_misspelt_field_is_refused_by_the_configuration():
    tree = Overrides.model_validate({"pretrain": {"num_step": 3}}).tree()
    with pytest.raises(ConfigError, match="num_step"):
        resolve("tiny", tree)


@pytest.mark.parametrize(
    "fields",
    [
        {"aws_access_key_id_block": "AKIAIOSFODNN7EXAMPLE"},
        {"aws_secret_access_key_block": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"},
        {"hf_token_block": "hf_abcdefghijklmnop"},
        {"wandb_api_key_block": "0123456789abcdef0123456789abcdef01234567"},
        {"endpoint_url": "https://user:password@minio:9000"},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_a_secret_in_place_of_a_name_is_refused(fields):
    with pytest.raises(ValidationError):
        AccessConfig.model_validate(fields)
