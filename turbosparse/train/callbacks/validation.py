"""Loss on held-back text while training runs, by category of the mixture."""

from collections import defaultdict
from pathlib import Path

import torch
from composer.core import State
from composer.core.precision import get_precision_context
from composer.utils import dist
from torch import Tensor
from transformers import PreTrainedModel

from turbosparse.analysis.text import token_windows
from turbosparse.data.held_back import read_documents
from turbosparse.data.layout import HELD_BACK_NAME, TOKENIZER_NAME
from turbosparse.data.sources import source_named
from turbosparse.data.tokenizer import load_tokenizer
from turbosparse.train.callbacks.ranks import module_of, reshard
from turbosparse.train.job import TrainJob
from turbosparse.train.launch.heartbeat import beat

MOST_TOKENS = 16_384
LEAST_TOKENS = 64
"""Per category, where nobody said how many."""
TRAINED_TOKENS_PER_VALIDATED = 3
"""A validated token is a third of a trained one's work: so validation takes about a tenth of the time."""


class Validation:
    """Measures the loss per token on each category's held-back documents, the windows shared by ranks."""

    def __init__(self, job: TrainJob, sequence_length: int) -> None:
        """Tokenizes the documents.

        Raises:
            DataError: The validation folder is no prepared corpus.
        """
        steps = job.recipe.num_steps
        self._interval = job.hardware.validation_interval_steps or max(1, -(-steps // 4))
        self._num_steps = steps
        wanted = job.hardware.num_validation_tokens
        self._windows: dict[str, list[Tensor]] = {}
        if job.validation_folder is not None and wanted != 0:
            trained_tokens = min(self._interval, steps) * job.recipe.batch_size_sequences * sequence_length
            folder = Path(job.validation_folder)
            self._windows = category_windows(folder, sequence_length, wanted, trained_tokens)

    def losses_of(self, step: int, state: State) -> dict[str, float] | None:
        """Returns the loss by category after this step if it is to be measured; every rank must ask."""
        is_due = step % self._interval == 0 or step == self._num_steps
        if not self._windows or not is_due:
            return None
        module = module_of(state)
        module.eval()
        try:
            with torch.no_grad(), get_precision_context(state.precision):
                return {name: _mean_loss(module.model, name, part) for name, part in self._windows.items()}
        finally:
            reshard(module.model)
            module.train()


def category_windows(
    folder: Path, window_tokens: int, num_tokens: int | None, trained_tokens: int
) -> dict[str, list[Tensor]]:
    """Returns a prepared corpus's held-back text as windows of token ids by category of Table 4.

    Args:
        folder: the prepared corpus.
        window_tokens: tokens per window at the most, BOS included.
        num_tokens: tokens per category at the most; None: as many as `tokens_per_category` finds.
        trained_tokens: tokens that are trained on between two validations.
    """
    texts: dict[str, list[str]] = defaultdict(list)
    for document in read_documents(folder / HELD_BACK_NAME):
        texts[source_named(document.source).category].append(document.text)
    tokenizer = load_tokenizer(folder / TOKENIZER_NAME)
    most = num_tokens or tokens_per_category(trained_tokens, len(texts))
    return {name: token_windows(tokenizer, found, window_tokens, most) for name, found in texts.items()}


def tokens_per_category(trained_tokens: int, num_categories: int) -> int:
    """Returns how many held-back tokens of each category are worth their time.

    Args:
        trained_tokens: Tokens that are trained on between two validations.
        num_categories: Categories that share the time.
    """
    share = trained_tokens // (TRAINED_TOKENS_PER_VALIDATED * num_categories)
    return min(MOST_TOKENS, max(LEAST_TOKENS, share))


def _mean_loss(model: PreTrainedModel, category: str, windows: list[Tensor]) -> float:
    """Returns the loss per token; each rank does every so-manieth window, as often as the others do."""
    world_size, rank = dist.get_world_size(), dist.get_global_rank()
    sums = torch.zeros(2, dtype=torch.float64, device=model.device)
    for start in range(0, len(windows), world_size):
        beat(f"validating on {category}, window {start + 1} of {len(windows)}")
        # Under FSDP2 all ranks must run together: who has no window left repeats the last, uncounted.
        window = windows[min(start + rank, len(windows) - 1)].to(model.device)
        logits = model(input_ids=window[None], use_cache=False).logits[0, :-1].float()
        loss = torch.nn.functional.cross_entropy(logits, window[1:], reduction="sum")
        if start + rank < len(windows):
            sums += torch.stack((loss.double(), torch.full_like(loss, len(window) - 1).double()))
    dist.all_reduce(sums)
    total, num_tokens = sums.tolist()
    return float(total / num_tokens)
