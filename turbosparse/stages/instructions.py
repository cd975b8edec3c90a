"""Conversations become packed sequences whose loss falls on the assistant's words only."""

from collections import Counter
from typing import Any

from turbosparse.artifacts import Workspace
from turbosparse.data.sft import build_instructions
from turbosparse.progress import Listener
from turbosparse.stages.run import Run
from turbosparse.stages.specs import Specs, require

NUM_HELD_BACK_CONVERSATIONS = 16


def build(run: Run, workspace: Workspace, listener: Listener) -> dict[str, Any]:
    """Fills the workspace with tokenizer/ (ChatML added), shards/ and held_back.jsonl.

    Returns:
        The metrics of `build_instructions`, with num_rows {set: usable rows} and stands_behind
        {set: words}.

    Raises:
        DataError: No usable conversation, or rows that can't be reached.

    Reference: Section 5 of the paper, "SFT datasets".
    """
    rejected: Counter[str] = Counter()
    num_rows: Counter[str] = Counter()
    metrics = build_instructions(
        run.instructions.conversations(rejected, run.config.data.max_document_bytes, num_rows),
        require(run, Specs(run).prepare).folder() / "tokenizer",
        run.config.finetune.sequence_length,
        run.config.finetune.max_conversations,
        NUM_HELD_BACK_CONVERSATIONS,
        workspace.folder,
        listener.on_progress,
        rejected,
    )
    return metrics | {"num_rows": dict(num_rows), "stands_behind": run.instructions.describe()}
