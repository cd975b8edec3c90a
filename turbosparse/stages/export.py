"""A folder that loads elsewhere, decodes the same tokens, and says what was measured."""

from pathlib import Path
from typing import Any

import torch

from turbosparse.artifacts import Workspace
from turbosparse.data.tokenizer import load_tokenizer
from turbosparse.export.card import MeasuredSpeed, model_card
from turbosparse.export.check import check_decoding, time_decoding
from turbosparse.export.huggingface import export_huggingface, reload_exported
from turbosparse.export.powerinfer.export import PowerInferOptions, export_powerinfer
from turbosparse.model.device import on_best_device
from turbosparse.model.folder import load_model
from turbosparse.progress import Listener
from turbosparse.stages.run import Run
from turbosparse.stages.specs import Specs, require

PROMPT = "The first thing to know about"


def build(run: Run, workspace: Workspace, listener: Listener) -> dict[str, Any]:  # noqa: ARG001 - as all
    """Fills the workspace with model/, checked against the model before export, and powerinfer/ if wanted.

    Raises:
        ArtifactError: The reloaded folder decodes other tokens.
        ModelError: PowerInfer is wanted and can't run the model.
    """
    wanted = run.config.export
    evaluation = require(run, Specs(run).evaluate)
    source = require(run, Specs(run).finetune).folder() / "model"
    powerinfer = _export_powerinfer(run, source, workspace.folder)
    model, tokenizer = on_best_device(load_model(source)), load_tokenizer(source)
    ids = tokenizer(PROMPT, add_special_tokens=False)["input_ids"]
    prompt = torch.tensor([tokenizer.bos_token_id, *ids])
    speed = time_decoding(model, prompt, wanted.num_timed_tokens)
    lineage = [manifest for _, _, manifest in run.store.lineage(evaluation.manifest)]
    measured = MeasuredSpeed(speed, f"turbosparse run export --preset {run.preset}")
    target = workspace.folder / "model"
    export_huggingface(source, target, model_card(model.config, lineage, measured))
    reloaded = reload_exported(target).to(model.device)
    check_decoding(model, reloaded, prompt, wanted.num_check_tokens)
    return {
        "reloaded_matches": True,
        "exact_speedup_ratio": speed.ratio,
        "dense_tokens_per_second": speed.dense_tokens_per_second,
        "exact_tokens_per_second": speed.exact_tokens_per_second,
        **powerinfer,
    }


def _export_powerinfer(run: Run, source: Path, folder: Path) -> dict[str, Any]:
    quantization = run.config.export.powerinfer
    if quantization is None:
        return {}
    found = export_powerinfer(source, folder / "powerinfer", PowerInferOptions(quantization))
    return {"powerinfer": {"quantization": quantization, "warnings": found["warnings"]}}
