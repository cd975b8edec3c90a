"""A SwiGLU model, given or trained here, becomes dReLU."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from turbosparse.artifacts import Workspace
from turbosparse.data.tokenizer import load_tokenizer
from turbosparse.errors import ModelError
from turbosparse.export.huggingface import copy_tokenizer
from turbosparse.model.convert import convert_model, initial_model
from turbosparse.model.folder import open_folder, save_model
from turbosparse.model.licence import model_licence
from turbosparse.progress import Listener
from turbosparse.stages.run import Run
from turbosparse.stages.specs import Specs, require


def build(run: Run, workspace: Workspace, listener: Listener) -> dict[str, Any]:  # noqa: ARG001 - as all
    """Fills the workspace with model/: the source's weights, the new activation, the tokenizer.

    Raises:
        ModelError: The source is of another architecture, or its vocabulary is not the corpus's.

    Reference: Sections 3.2 and 5 of the paper.
    """
    corpus, target = require(run, Specs(run).prepare).folder(), workspace.folder / "model"
    tokenizer = load_tokenizer(corpus / "tokenizer")
    source, activation = run.config.convert.source, run.config.convert.activation
    if source == "random":
        save_model(initial_model(run.config.model, tokenizer, activation), target)
    else:
        folder = source_folder(run)
        model_config, _ = open_folder(folder)
        _check_vocabulary(model_config.vocab_size, tokenizer)
        convert_model(folder, target, activation)
    copy_tokenizer(corpus / "tokenizer", target)
    return {"source": _source_name(run), "source_licence": _licence(run), "activation": activation}


def source_folder(run: Run) -> Path:
    """Returns the SwiGLU model's folder: the one given, or the base that was trained here."""
    if run.config.convert.source == "base":
        return require(run, Specs(run).base).folder() / "model"
    assert run.placement.source is not None
    return Path(run.placement.source)


def _source_name(run: Run) -> str:
    return Path(run.placement.source).name if run.placement.source else run.config.convert.source


def _licence(run: Run) -> str:
    source = run.placement.source
    return model_licence(Path(source)) if source else "that of the corpus: it was trained here"


def _check_vocabulary(vocab_size: int, tokenizer: PreTrainedTokenizerBase) -> None:
    if len(tokenizer) > vocab_size:
        remedy = "give the tokenizer that the model was trained with (--tokenizer DIR)"
        raise ModelError(
            "vocab_size", vocab_size, f"at least the tokenizer's {len(tokenizer)} entries", remedy
        )
