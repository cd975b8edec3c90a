"""Conversations become packed sequences whose loss falls on the assistant's words only."""

from collections import Counter
from pathlib import Path
from typing import Any

from turbosparse.artifacts import Workspace
from turbosparse.data.conversations import read_conversations
from turbosparse.data.local_instructions import local_conversations
from turbosparse.data.sft import build_instructions
from turbosparse.progress import Listener
from turbosparse.stages.run import Run
from turbosparse.stages.specs import Specs, require

NUM_HELD_BACK_CONVERSATIONS = 16


def build(run: Run, workspace: Workspace, listener: Listener) -> dict[str, Any]:
    """Fills the workspace with tokenizer/ (ChatML added), shards/ and held_back.jsonl.

    Raises:
        DataError: No usable conversation.

    Reference: Section 5 of the paper, "SFT datasets".
    """
    rejected: Counter[str] = Counter()
    rows = run.placement.instructions
    conversations = read_conversations(Path(rows), rejected) if rows else local_conversations()
    return build_instructions(
        conversations,
        require(run, Specs(run).prepare).folder() / "tokenizer",
        run.config.finetune.sequence_length,
        run.config.finetune.max_conversations,
        NUM_HELD_BACK_CONVERSATIONS,
        workspace.folder,
        listener.on_progress,
        rejected,
    )
