"""How training runs on the machines at hand. Nothing here changes what is learned, beyond rounding."""

from typing import Annotated, Literal

from annotated_types import Ge, Gt

from turbosparse.config.base import Config


class WandbConfig(Config):
    """Weights & Biases. The key comes from WANDB_API_KEY or the machine's netrc, never from here."""

    project: str
    """Project that receives the run; a resumed training continues its run."""
    entity: str | None = None
    """User or team; none: the key's own."""
    mode: Literal["online", "offline"] = "online"
    """`offline` writes below the stage's state folder, for `wandb sync` later."""


class TaskEvaluationConfig(Config):
    """Evaluation tasks while training runs, on the model as it then is: trends, not final figures.

    Figures go to the history, the terminal, Prefect and W&B; the last ones to the artifact's metrics.
    """

    tasks: tuple[str, ...]
    """As evaluate.tasks names them; items come from placement.evaluation_data, else from the hub. With
    several ranks none that generates text."""
    interval_steps: Annotated[int, Gt(0)] | None = None
    """Steps between evaluations; none: a quarter of the run. The last step is evaluated too."""
    limit: Annotated[int, Gt(0)] | None = 64
    """Items per task at the most; none: all. Every rank evaluates all of them."""


class TrainingPlacement(Config):
    """Memory against speed, checkpoints, and what is looked at while training runs."""

    activation_checkpointing: bool = False
    """Computes each layer's activations twice instead of keeping them: about a third more time for
    most of the memory that grows with the batch."""
    compile: bool = False
    """Compiles each layer with torch.compile. Steps that observe activations run uncompiled, and so does
    a training with predictors beside it or a sparsity penalty, which observes all of them."""
    num_loader_workers: Annotated[int, Ge(0)] = 2
    """Processes per rank that read batches ahead, where there is a GPU to keep busy."""
    keep_checkpoints: Annotated[int, Ge(1)] = 2
    """Newest checkpoints that are kept."""
    keep_every_steps: Annotated[int, Gt(0)] | None = None
    """Checkpoints at multiples of this many steps are kept too; none: no others."""
    validation_interval_steps: Annotated[int, Gt(0)] | None = None
    """Steps between measurements of the loss on held-back text; none: a quarter of the run."""
    num_validation_tokens: Annotated[int, Ge(0)] | None = None
    """Held-back tokens per category of the mixture at the most; 0: no validation; none: 16,384, or fewer
    where all categories together would then be more than a third of what is trained on in between, but 64."""
    evaluation: TaskEvaluationConfig | None = None
    """Tasks that are evaluated while training runs; none: none."""
    profile_at_step: Annotated[int, Gt(0)] | None = None
    """Writes a torch.profiler trace of this step and the two after it into the stage's artifact."""
    wandb: WandbConfig | None = None
    """Where metrics go besides the history, the terminal and Prefect."""
