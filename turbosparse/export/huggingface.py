"""A Hugging Face folder that stands on its own: weights, tokenizer, modelling code, model card."""

import shutil
from pathlib import Path

from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from turbosparse.data.chatml import TURN_END
from turbosparse.data.tokenizer import load_tokenizer
from turbosparse.errors import ArtifactError
from turbosparse.model.folder import save_model

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


def export_huggingface(model: PreTrainedModel, tokenizer_folder: Path, target: Path, card: str) -> None:
    """Writes `target` so that AutoModelForCausalLM loads it.

    After `import turbosparse.model` no code from the folder runs; elsewhere the folder's own copy
    of the modelling code serves, with trust_remote_code=True.

    Raises:
        ArtifactError: The target exists and is not empty.
    """
    check_target(target)
    # A chat ends its turn with a token of its own; generate() must know both ends.
    model.generation_config.eos_token_id = stop_tokens(load_tokenizer(tokenizer_folder))
    type(model.config).register_for_auto_class("AutoConfig")
    type(model).register_for_auto_class("AutoModelForCausalLM")
    save_model(model, target)
    copy_tokenizer(tokenizer_folder, target)
    (target / "README.md").write_text(card, encoding="utf-8")


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
            shutil.copyfile(source / name, target / name)


def reload_exported(folder: Path) -> PreTrainedModel:
    """Loads an exported folder as a user would, without running code from it."""
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", local_files_only=True, use_safetensors=True, trust_remote_code=False
    ).eval()
