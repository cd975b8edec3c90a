"""A Hugging Face folder that stands on its own: weights, tokenizer, modelling code, model card."""

import inspect
import json
import shutil
from pathlib import Path
from typing import Any, Literal

from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.dynamic_module_utils import get_relative_import_files

from turbosparse.artifacts.files import copy_own_file
from turbosparse.data.chat_templates import TURN_END
from turbosparse.data.tokenizer import load_tokenizer
from turbosparse.errors import ArtifactError
from turbosparse.model.configuration import TurboSparseMixtralConfig
from turbosparse.model.folder import open_folder
from turbosparse.model.layout import OurConfig, our_class
from turbosparse.model.rewrite import our_values, whole_folder, write_folder, write_released

Layout = Literal["native", "released"]
SHARD_BYTES = 5 * 1000**3
"""Largest file of weights, unless one tensor alone is larger."""
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


def export_huggingface(
    source: Path, target: Path, card: str, layout: Layout = "native", shard_bytes: int = SHARD_BYTES
) -> None:
    """Writes `source`'s model to `target`; weights stay bit for bit.

    Bytes go from file to file: memory in use does not depend on the model's size.

    Args:
        source: A model folder in any layout that `load_model` reads, with its tokenizer.
        target: A new or empty folder.
        card: The README.md.
        layout: `native`: AutoModelForCausalLM loads it after `import turbosparse.model`, no code from the
            folder being run, and elsewhere by the folder's own copy of the modelling code, with
            trust_remote_code=True. `released`: names and configuration of the released TurboSparse
            models, for programs that know these; dense ones load with trust_remote_code=True too, but one
            tensor per expert is more than our modelling code reads.
        shard_bytes: Largest file of weights.

    Raises:
        ModelError: The source is no such folder, or has something that the released layout can't say.
        DataError: It has no tokenizer.
        ArtifactError: The target exists and is not empty, or the disk is full.
    """
    config, tensors = open_folder(source)
    stops = stop_tokens(load_tokenizer(source))
    with whole_folder(target) as folder:
        if layout == "released":
            write_released(source, folder, shard_bytes)
            if not isinstance(config, TurboSparseMixtralConfig):
                _add_to_config(folder, released_additions(config))
                _copy_modelling_code(config, folder)
        else:
            values = our_values(config) | {"auto_map": auto_map(config)}
            write_folder(values, tensors, source, folder, shard_bytes)
            _copy_modelling_code(config, folder)
        copy_tokenizer(source, folder)
        _write_generation_config(config, stops, folder)
        (folder / "README.md").write_text(card, encoding="utf-8")


def auto_map(config: OurConfig) -> dict[str, str]:
    """Returns which classes of the folder's own modelling code transformers is to load."""
    classes = {"AutoConfig": type(config), "AutoModelForCausalLM": our_class(config)}
    return {name: f"{cls.__module__.rpartition('.')[2]}.{cls.__name__}" for name, cls in classes.items()}


def released_additions(config: OurConfig) -> dict[str, Any]:
    """Returns what our modelling code must know beside a released model's configuration."""
    return {
        "activation": config.activation,
        "predictor_rank": config.predictor_rank,
        "auto_map": auto_map(config),
    }


def stop_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Returns the tokens that end a text: end of text and, where there is a chat template, of a turn."""
    known = tokenizer.get_vocab()
    return [tokenizer.eos_token_id, *([known[TURN_END]] if TURN_END in known else [])]


def check_target(target: Path) -> None:
    """Refuses to write over anything.

    Raises:
        ArtifactError: The target exists and is not an empty folder.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ArtifactError("target", str(target), "an empty or new folder", "give another folder")


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copies a tokenizer's files into a model folder."""
    target.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            copy_own_file(source, name, target)


def reload_exported(folder: Path) -> PreTrainedModel:
    """Loads an exported folder as a user would, without running code from it."""
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", local_files_only=True, use_safetensors=True, trust_remote_code=False
    ).eval()


def _add_to_config(folder: Path, values: dict[str, Any]) -> None:
    path = folder / "config.json"
    written = json.loads(path.read_text(encoding="utf-8")) | values
    path.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")


def _copy_modelling_code(config: OurConfig, folder: Path) -> None:
    module = Path(inspect.getfile(our_class(config)))
    for file in (module, *map(Path, get_relative_import_files(module))):
        shutil.copyfile(file, folder / file.name)


def _write_generation_config(config: OurConfig, stops: list[int], folder: Path) -> None:
    if (folder / "generation_config.json").is_file():
        generation = GenerationConfig.from_pretrained(str(folder), local_files_only=True)
    else:
        generation = GenerationConfig.from_model_config(config)
    # A chat ends its turn with a token of its own; generate() must know both ends.
    generation.eos_token_id = stops
    generation.save_pretrained(str(folder))
