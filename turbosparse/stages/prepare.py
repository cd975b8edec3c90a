"""Corpora become a tokenizer, shards at Table 4's ratios, and held-back documents."""

import json
from typing import Any

from turbosparse.artifacts import Artifact, ArtifactSpec, Workspace
from turbosparse.data.corpus import CorpusInputs, build_corpus
from turbosparse.data.layout import REPORT_NAME
from turbosparse.data.licences import corpus_licences
from turbosparse.data.tokenize import GivenTokenizer
from turbosparse.progress import Listener
from turbosparse.reports.corpus import corpus_markdown
from turbosparse.reports.plots import plot_mixture
from turbosparse.stages.inputs import tokenizer_folder
from turbosparse.stages.run import Run
from turbosparse.stages.specs import require


def build(run: Run, workspace: Workspace, listener: Listener) -> dict[str, Any]:
    """Fills the workspace with tokenizer/, index.json, held_back.jsonl and the report with its plot.

    Raises:
        DataError: A source can't be read, or is too small for its share.

    Reference: Section 5 and Table 4 of the paper.
    """
    data, place = run.config.data, run.placement
    if data.corpora == "sampled":
        workspace.components.append(_make_samples(run, listener).manifest.name)
    inputs = CorpusInputs(
        corpora=run.corpora,
        tokenizer=_tokenizer(run),
        evaluation_data=place.evaluation_data,
        known=require(run, run.branch.corpus).manifest if run.branch else None,
    )
    metrics = build_corpus(data, inputs, run.store, workspace, run.map_jobs, listener.on_progress)
    report = json.loads((workspace.folder / REPORT_NAME).read_text(encoding="utf-8"))
    (workspace.folder / "report.md").write_text(corpus_markdown(report), encoding="utf-8")
    wanted = {source: percent / 100 for source, percent in data.mixture.items()}
    plot_mixture(wanted, metrics["token_ratio"], workspace.folder / "mixture.png")
    return metrics | {"licences": corpus_licences(data)}


def _tokenizer(run: Run) -> GivenTokenizer | ArtifactSpec | None:
    if run.branch is not None:
        return run.branch.tokenizer
    folder, digest = tokenizer_folder(run.placement), run.inputs.tokenizer
    return GivenTokenizer(folder, digest) if folder and digest else None


def _make_samples(run: Run, listener: Listener) -> Artifact:
    # Imported here: models take seconds, and most corpora are read rather than sampled.
    from turbosparse.stages.sampling import make_samples  # noqa: PLC0415

    return make_samples(run, listener)
