"""From a preset, a file and `--set` options to one validated configuration."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from pydantic import ValidationError

from turbosparse.config.base import Config
from turbosparse.config.pipeline import PipelineConfig
from turbosparse.config.yaml_text import NotYaml, parse_yaml
from turbosparse.errors import ConfigError
from turbosparse.masking import HIDDEN, names_secret

PresetName = Literal["tiny", "tiny-moe", "300m", "mistral-7b", "mixtral-8x7b"]
PRESET_NAMES: tuple[str, ...] = get_args(PresetName)

Tree = dict[str, Any]
AnyConfig = TypeVar("AnyConfig", bound=Config)


def resolve(preset: str, overrides: Mapping[str, Any] | None = None, dry_run: bool = False) -> PipelineConfig:
    """Returns the preset with its `dry_run:` block (if asked for) and then the overrides applied.

    Raises:
        ConfigError: An unknown preset or field, or a value out of its bounds.
    """
    tree = read_preset(preset)
    dry_run_block = tree.pop("dry_run", None)
    if dry_run:
        if dry_run_block is None:
            runnable = [name for name in PRESET_NAMES if "dry_run" in read_preset(name)]
            raise ConfigError("preset", preset, f"one with a dry run: {', '.join(runnable)}", "choose one")
        tree = merge(tree, _with_scaled_warmup(tree, dry_run_block))
    return validate(PipelineConfig, merge(tree, dict(overrides or {})), source=f"preset {preset}")


def read_preset(name: str) -> Tree:
    """Returns a preset's YAML as a tree, its `dry_run:` block included."""
    if name not in PRESET_NAMES:
        raise ConfigError("preset", name, f"one of {', '.join(PRESET_NAMES)}", "choose one of these")
    text = files("turbosparse.config").joinpath(f"presets/{name}.yaml").read_text(encoding="utf-8")
    return _parse_yaml(text, name)


def read_overrides(config_file: str | None, assignments: list[str]) -> Tree:
    """Returns the overrides of `--config FILE`, with those of `--set a.b=c` on top.

    Raises:
        ConfigError: An unreadable file, or an assignment that is not of the form a.b=c.
    """
    tree: Tree = {}
    if config_file is not None:
        try:
            tree = _parse_yaml(Path(config_file).read_text(encoding="utf-8"), config_file)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                "--config", config_file, "a readable YAML file", f"check the path ({error})"
            ) from error
    for assignment in assignments:
        tree = merge(tree, _parse_assignment(assignment))
    return tree


def merge(below: Tree, above: Tree) -> Tree:
    """Returns `below` with `above` laid over it: mappings merge; values and mixtures replace."""
    merged = dict(below)
    for key, value in above.items():
        # A mixture is one value: its percentages only make sense together.
        if isinstance(value, dict) and isinstance(merged.get(key), dict) and key != "mixture":
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def validate(model: type[AnyConfig], tree: Mapping[str, Any], source: str) -> AnyConfig:
    """Returns `tree` as a configuration model.

    Raises:
        ConfigError: Names the first field that does not fit, its value and what is expected.
    """
    try:
        return model.model_validate(dict(tree))
    except ValidationError as error:
        raise _as_config_error(error, model, source) from error


def _with_scaled_warmup(tree: Tree, block: Tree) -> Tree:
    """Warmup keeps its fraction of the steps where a dry run shortens them."""
    scaled = dict(block)
    for stage in ("pretrain", "finetune"):
        short = block.get(stage, {})
        if "num_steps" in short and "warmup_steps" not in short:
            fraction = tree[stage]["warmup_steps"] / tree[stage]["num_steps"]
            scaled[stage] = {**short, "warmup_steps": round(fraction * short["num_steps"])}
    return scaled


def _parse_assignment(assignment: str) -> Tree:
    path, equals, text = assignment.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError("--set", assignment, "a.b=c", "write for example --set pretrain.num_steps=10")
    value: Any = _parse_scalar(text)
    for key in reversed(keys):
        value = {key: value}
    return value


def _parse_scalar(text: str) -> Any:
    try:
        value = parse_yaml(text)
    except NotYaml as error:
        raise ConfigError("--set", text, "a plain YAML value", f"write it otherwise ({error})") from error
    # YAML 1.1 reads 1e-4 as text: a number without a dot is meant as one all the same.
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _parse_yaml(text: str, source: str) -> Tree:
    try:
        tree = parse_yaml(text)
    except NotYaml as error:
        raise ConfigError(source, str(error), "YAML", "mend the file") from error
    if not isinstance(tree, dict):
        raise ConfigError(source, tree, "a mapping of fields to values", "see turbosparse/config/presets")
    return tree


def _as_config_error(error: ValidationError, model: type[Config], source: str) -> ConfigError:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"]) or model.__name__
    remedy = f"mend it in {source} or give --set {field}=…"
    raised = first.get("ctx", {}).get("error")
    if isinstance(raised, ConfigError):
        inner = ".".join(filter(None, [*map(str, first["loc"]), raised.field]))
        return ConfigError(inner, raised.value, raised.expected, raised.remedy)
    value = HIDDEN if names_secret(field) else first.get("input")
    if first["type"] == "extra_forbidden":
        known = _fields_at(model, first["loc"][:-1])
        return ConfigError(field, value, f"a known field: {', '.join(known)}", "check the name")
    return ConfigError(field, value, first["msg"], remedy)


def _fields_at(model: type[Config], path: tuple[int | str, ...]) -> list[str]:
    for key in path:
        field = model.model_fields.get(str(key))
        annotation = field.annotation if field else None
        candidates = [annotation, *get_args(annotation)]
        nested = [item for item in candidates if isinstance(item, type) and issubclass(item, Config)]
        if not nested:
            return []
        model = nested[0]
    return sorted(model.model_fields)
