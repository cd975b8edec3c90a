"""Corpora become a tokenizer, shards at Table 4's ratios, and held-back documents."""

from typing import Any

from turbosparse.artifacts import Workspace
from turbosparse.data.corpora import open_corpora
from turbosparse.data.shards import build_shards
from turbosparse.progress import Listener
from turbosparse.reports.plots import plot_mixture
from turbosparse.stages.inputs import tokenizer_folder
from turbosparse.stages.run import Run


def build(run: Run, workspace: Workspace, listener: Listener) -> dict[str, Any]:
    """Fills the workspace with tokenizer/, shards/, held_back.jsonl, mixture.json and mixture.png.

    Raises:
        DataError: A source can't be read, or is too small for its share.

    Reference: Section 5 and Table 4 of the paper.
    """
    data = run.config.data
    corpora = open_corpora(data.corpora, run.placement.corpora)
    tokenizer = tokenizer_folder(run.placement)
    metrics = build_shards(data, corpora, tokenizer, workspace.folder, listener.on_progress)
    wanted = {source: percent / 100 for source, percent in data.mixture.items()}
    plot_mixture(wanted, metrics["token_ratio"], workspace.folder / "mixture.png")
    return metrics
