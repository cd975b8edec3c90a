"""Recovery text sampled from the original model: an artifact of its own that the corpus is made from."""

import json
import time
from typing import Any

import torch

from turbosparse.artifacts import Artifact, Workspace
from turbosparse.config import PipelineConfig, Placement
from turbosparse.data.sampled_corpora import SAMPLES_NAME, SampledCorpora
from turbosparse.data.tokenizer import load_tokenizer
from turbosparse.inference.sampled_documents import sample_documents
from turbosparse.model.folder import load_model
from turbosparse.progress import Listener
from turbosparse.stages.inputs import tokenizer_folder
from turbosparse.stages.run import Run


def make_samples(run: Run, listener: Listener) -> Artifact:
    """Returns the sampled documents: found in the store, or sampled now, on a GPU where there is one.

    Raises:
        ModelError: The source can't sample: no BOS or EOS token, or too short a context.
    """
    assert isinstance(run.corpora, SampledCorpora)
    return run.store.produce(
        run.corpora.samples, lambda workspace: _sample(run.config, run.placement, workspace, listener)
    )


def _sample(
    config: PipelineConfig, placement: Placement, workspace: Workspace, listener: Listener
) -> dict[str, Any]:
    folder = tokenizer_folder(placement)
    assert placement.source is not None
    assert folder is not None
    tokenizer = load_tokenizer(folder)
    model = load_model(placement.source).to("cuda" if torch.cuda.is_available() else "cpu")
    started, num_documents, num_tokens = time.monotonic(), 0, 0
    with (workspace.folder / SAMPLES_NAME).open("w", encoding="utf-8") as file:
        for document in sample_documents(model, config.data.sampling, listener.on_progress):
            text = tokenizer.decode(document, skip_special_tokens=True)
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            num_documents += 1
            num_tokens += len(document)
    return {
        "num_documents": num_documents,
        "num_tokens": num_tokens,
        "tokens_per_second": num_tokens / (time.monotonic() - started),
    }
