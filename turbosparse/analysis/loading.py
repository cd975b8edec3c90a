"""Model folders for analysis: ours, and mixture-of-experts classes that only transformers has."""

import json
from pathlib import Path

from transformers import AutoModelForCausalLM, PreTrainedModel

from turbosparse.errors import ModelError
from turbosparse.model.folder import load_model

ANALYSED_TYPES = ("qwen2_moe", "qwen3_moe", "deepseek_v2", "deepseek_v3")
"""Model types that are analysed as they are, by transformers' classes.

DeepSeek-MoE 16B, which the paper measured, has no class in transformers: it comes as code of its own,
and no code from a model folder runs.
"""


def load_for_analysis(folder: str | Path) -> PreTrainedModel:
    """Returns the folder's model in eval mode: one of our classes, or a known MoE class of transformers.

    Raises:
        ModelError: Another architecture, no safetensors, or weights that are missing or left over.
    """
    model_type = _model_type(Path(folder))
    if model_type not in ANALYSED_TYPES:
        return load_model(folder)
    if not any(Path(folder).glob("*.safetensors")):
        remedy = "convert the weights to safetensors: pickled ones are never loaded"
        raise ModelError("weights", str(folder), "*.safetensors files", remedy)
    model, report = AutoModelForCausalLM.from_pretrained(
        str(folder),
        dtype="auto",
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    problems = {name: sorted(found) for name, found in report.items() if found}
    if problems:
        remedy = "give a folder whose weights match its config.json"
        raise ModelError("weights", problems, f"those of {model_type}", remedy)
    loaded: PreTrainedModel = model.eval()
    return loaded


def _model_type(folder: Path) -> str | None:
    """Returns what config.json says, or None where load_model will say what is wrong."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return str(config["model_type"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
