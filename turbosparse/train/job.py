"""What a training process is told: one JSON file, the same for every rank."""

from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Gt

from turbosparse.config import Config, PredictorConfig, TrainConfig


class TrainJob(Config):
    """One training run: a model folder in, a model folder and a history out."""

    name: Literal["base", "pretrain", "finetune"]
    """The stage; it decides what the data folder holds."""
    recipe: TrainConfig
    """Hyperparameters."""
    model_folder: str
    """The model to start from."""
    data_folder: str
    """Shards of text (`base`, `pretrain`) or of conversations (`finetune`)."""
    shards: str
    """Where the paths of a corpus's index begin: a folder, or a URI that streaming downloads from."""
    output_folder: str
    """Receives the model and history.jsonl."""
    state_folder: str
    """Checkpoints to resume from."""
    predictor: PredictorConfig | None = None
    """Trains activation predictors beside the model."""
    vocab_size: Annotated[int, Gt(0)] | None = None
    """Widens the vocabulary to this many entries before training."""
    num_ranks: Annotated[int, Gt(0)]
    """Training processes."""
    device_batch_size_sequences: Annotated[int, Gt(0)]
    """Sequences per forward pass of one rank."""
    checkpoint_interval_steps: Annotated[int, Gt(0)]
    """Steps between checkpoints."""

    @property
    def rank_batch_size_sequences(self) -> int:
        """Sequences per optimizer step of one rank."""
        return self.recipe.batch_size_sequences // self.num_ranks

    @property
    def history_path(self) -> Path:
        """One JSON line per optimizer step; survives a restart."""
        return Path(self.state_folder) / "history.jsonl"
