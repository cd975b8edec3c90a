"""Configurations nobody would write: each is taken, or refused by a message."""

import json

import pytest
from hypothesis import strategies as st
from mutations import JSON, fuzzed, mutated_bytes, mutated_trees, success_or_refusal

from turbosparse.config import PRESET_NAMES, PipelineConfig, Placement, read_overrides, resolve, validate
from turbosparse.errors import ConfigError

TINY = resolve("tiny").model_dump(mode="json")
MIXTRAL = resolve("mixtral-8x7b").model_dump(mode="json")
PLACEMENT = Placement(
    jobset={"namespace": "here", "image": "turbosparse:1"}, training={"wandb": {"project": "p"}}
).model_dump(mode="json")
YAML = b"pretrain:\n  num_steps: 10\n  learning_rate: 1.0e-3\ndata: {mixture: {wanjuan-cc: 100}, seed: 1}\n"
YAML_SIGNS = st.sampled_from(["[", "{", "]", "}", ":", "- ", "|", ">", "%", "@", "`", "'", '"', "<<: ", "\t"])
YAML_WORDS = st.sampled_from(
    [
        "&a ",
        "*a",
        "!!python/object:os.system ",
        "!!timestamp ",
        "2020-99-99",
        "1:2:3",
        ".inf",
        "0x",
        "1_0",
        "~",
    ]
)


@pytest.mark.parametrize("preset", PRESET_NAMES)
@fuzzed(mutated_trees(TINY) | mutated_trees(MIXTRAL), share=2)
def test_a_changed_preset(preset, tree):
    with success_or_refusal():
        for is_dry in (False, True):
            config = resolve(preset, tree, is_dry) if isinstance(tree, dict) else resolve(preset, {}, is_dry)
            json.dumps(config.model_dump(mode="json"), allow_nan=False)


@fuzzed(JSON | mutated_trees(TINY), share=5)
def test_a_tree(tree):
    if isinstance(tree, dict):
        with success_or_refusal():
            validate(PipelineConfig, tree, source="a test")


@fuzzed(mutated_trees(PLACEMENT), share=5)
def test_a_placement(tree):
    if isinstance(tree, dict):
        with success_or_refusal():
            validate(Placement, tree, source="a test")


@fuzzed(st.lists(YAML_SIGNS | YAML_WORDS | st.text(max_size=5), max_size=8).map("".join), share=10)
def test_a_value_on_the_command_line(text):
    for assignment in (f"pretrain.num_steps={text}", text):
        with success_or_refusal():
            resolve("tiny", read_overrides(None, [assignment]))


@fuzzed(mutated_bytes(YAML) | st.binary(max_size=200), share=5)
def test_a_file(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "config.yaml"
    path.write_bytes(content)
    with success_or_refusal():
        resolve("tiny", read_overrides(str(path), []))


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    "text",
    ["[" * 5_000, "{a: " * 3_000, "a: &a [*a]", "&a [*a, *a]", LAUGHS, "9" * 5_000, f"0x{'f' * 5_000}"],
    ids=["lists", "mappings", "itself", "itself twice", "laughs", "digits", "hexadecimal digits"],
)
def test_a_value_without_an_end(text, tmp_path):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError):
        resolve("tiny", read_overrides(str(tmp_path / "config.yaml"), []))
    with pytest.raises(ConfigError):
        resolve("tiny", read_overrides(None, [f"data.mixture={text}"]))
