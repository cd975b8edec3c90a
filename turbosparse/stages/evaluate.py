"""The tuned model on evaluation tasks and held-back text."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from turbosparse.analysis.activity import mean, measure_activity
from turbosparse.analysis.parameters import activated_parameters
from turbosparse.analysis.text import token_windows
from turbosparse.artifacts import Workspace
from turbosparse.data.held_back import read_documents
from turbosparse.data.layout import HELD_BACK_NAME, TOKENIZER_NAME
from turbosparse.data.tokenizer import load_tokenizer
from turbosparse.errors import DataError
from turbosparse.evaluation.harness import EvaluationOptions, evaluate_model
from turbosparse.evaluation.modes import Computation
from turbosparse.evaluation.records import write_result
from turbosparse.model.device import on_best_device
from turbosparse.model.folder import load_model
from turbosparse.progress import Listener
from turbosparse.reports.plots import plot_sparsity
from turbosparse.stages.evaluated import FIELD, find_evaluated
from turbosparse.stages.run import Run
from turbosparse.stages.specs import Specs, require


def build(run: Run, workspace: Workspace, listener: Listener) -> dict[str, Any]:
    """Measures task results, sparsity by layer and activated parameters.

    Raises:
        DataError: A task that can't be run here.

    Reference: Section 6 of the paper.
    """
    corpus = require(run, Specs(run).evaluate.parents["corpus"]).folder()
    folder = _model_folder(run, workspace, corpus)
    model, tokenizer = on_best_device(load_model(folder)), load_tokenizer(folder)
    wanted, data = run.config.evaluate, run.placement.evaluation_data
    computation = Computation(wanted.mode, wanted.topk_ratio)
    options = EvaluationOptions(wanted.num_fewshot, computation, corpus / HELD_BACK_NAME)
    data_folder = None if data is None else Path(data)
    found = evaluate_model(
        model, tokenizer, wanted.tasks, data_folder, wanted.limit, listener.on_progress, options
    )
    write_result(found, workspace.folder)
    sparsity = _measure_sparsity(run, model, tokenizer, corpus, workspace.folder)
    return {**found.summary(), **sparsity}


def _model_folder(run: Run, workspace: Workspace, corpus: Path) -> Path:
    if run.inputs.evaluated_model is None:
        return require(run, Specs(run).finetune).folder() / "model"
    named = find_evaluated(run.placement, run.store)
    if named is None or named.digest != run.inputs.evaluated_model:
        expected = "the checkpoint that was there when the run was opened"
        raise DataError(FIELD, run.placement.evaluated_model, expected, "training went on: run again")
    return named.model_folder(workspace.state, corpus / TOKENIZER_NAME)


def _measure_sparsity(
    run: Run, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, corpus: Path, folder: Path
) -> dict[str, Any]:
    texts = [document.text for document in read_documents(corpus / HELD_BACK_NAME)]
    length, num_tokens = run.config.data.sequence_length, run.config.evaluate.num_sparsity_tokens
    windows = token_windows(tokenizer, texts, length, num_tokens)
    layers = measure_activity(model, windows).layers()
    plot_sparsity(layers, folder / "sparsity.png")
    parameters = activated_parameters(model, layers)
    return {
        "zero_activation_ratio": mean(layers, "zero_activation_ratio"),
        "num_sparsity_tokens": sum(len(window) for window in windows),
        "activated_parameters": parameters.as_json(),
        "layers": [asdict(layer) for layer in layers],
    }
