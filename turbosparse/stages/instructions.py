"""Conversations become packed sequences whose loss falls on the assistant's words only."""

from collections import Counter
from typing import Any

from turbosparse.artifacts import Workspace
from turbosparse.data.cleaning.contamination import Contamination
from turbosparse.data.decontaminate import publish_ngrams
from turbosparse.data.layout import NGRAMS_NAME
from turbosparse.data.sft import InstructionPlan, build_instructions
from turbosparse.progress import Listener
from turbosparse.stages.run import Run
from turbosparse.stages.specs import Specs, require

NUM_HELD_BACK_CONVERSATIONS = 64


def build(run: Run, workspace: Workspace, listener: Listener) -> dict[str, Any]:
    """Fills the workspace with tokenizer/ (the chat template's tokens added), shards/ and held_back.jsonl.

    Returns:
        The metrics of `build_instructions`, with num_rows {set: usable rows} and stands_behind
        {set: words}.

    Raises:
        DataError: No usable conversation, rows that can't be reached, or, in strict mode, a broken one.
        ConfigError: A mixture of sets that are not there.

    Reference: Section 5 of the paper, "SFT datasets".
    """
    rejected: Counter[str] = Counter()
    num_rows: Counter[str] = Counter()
    wanted, max_row_bytes = run.config.finetune, run.config.data.max_document_bytes
    metrics = build_instructions(
        run.instructions.conversations(rejected, max_row_bytes, num_rows, wanted.strict),
        require(run, Specs(run).prepare).folder() / "tokenizer",
        InstructionPlan(
            wanted.sequence_length,
            wanted.max_conversations,
            NUM_HELD_BACK_CONVERSATIONS,
            wanted.chat_template,
            wanted.mixture,
            _contamination(run),
        ),
        workspace.folder,
        listener.on_progress,
        rejected,
    )
    return metrics | {"num_rows": dict(num_rows), "stands_behind": run.instructions.describe()}


def _contamination(run: Run) -> Contamination | None:
    """Returns the n-grams that the corpus was decontaminated with; None where it was not."""
    spec = publish_ngrams(run.config.data, run.placement.evaluation_data, run.store)
    return None if spec is None else Contamination.load(require(run, spec).folder() / NGRAMS_NAME)
