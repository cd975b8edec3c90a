"""What a training process is told: one JSON file, the same for every rank."""

from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Gt

from turbosparse.config import Config, PredictorConfig, TrainConfig, TrainingPlacement


class TrainJob(Config):
    """One training run: a model folder in; checkpoints, the last of them the result, and a history out.

    Folders that are read are paths, or origins that each node fetches (`turbosparse.artifacts.origins`).
    """

    name: Literal["base", "pretrain", "finetune"]
    """The stage; it decides what the data folder holds."""
    identity: str
    """The artifact's: checkpoints of another one are refused, and W&B's run is named after it."""
    recipe: TrainConfig
    """Hyperparameters."""
    model_folder: str
    """The model to start from."""
    data_folder: str
    """Shards of text (`base`, `pretrain`) or of conversations (`finetune`)."""
    shards: str
    """Where the paths of a corpus's index begin: a folder, or a URI that streaming downloads from."""
    validation_folder: str | None = None
    """The prepared corpus whose held-back text validates; none: no validation."""
    evaluation_data: str | None = None
    """Items of the tasks that are evaluated meanwhile; none: the hub's."""
    held_back_folder: str | None = None
    """The prepared corpus whose held-back text local tasks are made of."""
    state_folder: str
    """This machine's own: history, traces, what W&B writes offline."""
    checkpoints: str
    """Folder or URI of the checkpoints."""
    predictor: PredictorConfig | None = None
    """Trains activation predictors beside the model."""
    teacher_folder: str | None = None
    """The original model, where the recipe distils."""
    vocab_size: Annotated[int, Gt(0)] | None = None
    """Widens the vocabulary to this many entries before training."""
    num_ranks: Annotated[int, Gt(0)]
    """Training processes, over all nodes."""
    device_batch_size_sequences: Annotated[int, Gt(0)]
    """Sequences per forward pass of one rank."""
    checkpoint_interval_steps: Annotated[int, Gt(0)]
    """Steps between checkpoints."""
    hardware: TrainingPlacement = TrainingPlacement()
    """How training uses the hardware, and what is looked at meanwhile."""

    @property
    def rank_batch_size_sequences(self) -> int:
        """Sequences per optimizer step of one rank."""
        return self.recipe.batch_size_sequences // self.num_ranks

    @property
    def history_path(self) -> Path:
        """One JSON line per optimizer step; survives a restart."""
        return Path(self.state_folder) / "history.jsonl"
