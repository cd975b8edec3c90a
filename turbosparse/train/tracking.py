"""Weights & Biases: a thin logger of our own, as Composer's asks for a release that sentencepiece can't bear.

Composer's WandBLogger needs wandb below 0.19 and with it protobuf below 6.
"""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from composer.core import State
from composer.loggers import Logger, LoggerDestination
from composer.utils import dist

from turbosparse.train.job import TrainJob

if TYPE_CHECKING:
    from wandb import Run

SECONDS_TO_ANSWER = 30
"""After this long at the start, W&B counts as out of reach."""
SECONDS_TO_SEND = 120
"""How long the end of training waits for figures that are still to be sent."""


class WandbLogger(LoggerDestination):
    """Sends what callbacks log to one W&B run per artifact; a resumed training continues it.

    Only figures and the recipe are sent: no code, no console, no environment.
    """

    def __init__(self, job: TrainJob) -> None:
        assert job.hardware.wandb is not None
        self._job = job
        self._wanted = job.hardware.wandb
        self._run: Run | None = None
        self._step = 0

    def init(self, state: State, logger: Logger) -> None:  # noqa: ARG002 - Composer's form
        """Opens the run on rank 0; where W&B can't be reached, the run is kept on disk and says so."""
        if dist.get_global_rank() != 0:
            return
        import wandb  # noqa: PLC0415 - a second, and most runs have none

        try:
            self._run = self._open(self._wanted.mode)
        except wandb.errors.CommError as error:
            print(f"W&B can't be reached ({error}): its run is kept below {self._job.state_folder}")
            wandb.teardown()  # its own process still holds the run that it could not open
            self._run = self._open("offline")
        print(f"W&B run {self._run.id}: {self._run.url or self._run.dir}", flush=True)

    def fit_start(self, state: State, logger: Logger) -> None:  # noqa: ARG002 - Composer's form
        """Takes up the count of steps."""
        self._step = state.timestamp.batch.value

    def batch_start(self, state: State, logger: Logger) -> None:  # noqa: ARG002 - Composer's form
        """Counts the step."""
        self._step = state.timestamp.batch.value + 1

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:  # noqa: ARG002 - its form
        """Sends figures under the step they belong to."""
        if self._run is not None:
            self._run.log({"step": self._step, **metrics})

    def close(self, state: State, logger: Logger) -> None:  # noqa: ARG002 - Composer's form
        """Ends the run; what W&B has taken is deleted here, the rest stays for `wandb sync`."""
        if self._run is None:
            return
        folder, is_online = Path(self._run.dir).parent, not self._run.offline
        try:
            self._run.finish()
        except TimeoutError:
            print(f"W&B did not take everything within {SECONDS_TO_SEND} s: the rest is kept", flush=True)
        else:
            if is_online:
                shutil.rmtree(folder, ignore_errors=True)

    def _open(self, mode: Literal["online", "offline"]) -> "Run":
        import wandb  # noqa: PLC0415 - see init

        folder = Path(self._job.state_folder) / "wandb"
        folder.mkdir(parents=True, exist_ok=True)
        run = wandb.init(
            project=self._wanted.project,
            entity=self._wanted.entity,
            mode=mode,
            id=f"{self._job.name}-{self._job.identity}",
            name=f"{self._job.name}-{self._job.identity[:8]}",
            resume="allow",
            dir=str(folder),
            config=self._job.recipe.model_dump(mode="json") | {"num_ranks": self._job.num_ranks},
            settings=wandb.Settings(
                console="off",
                disable_code=True,
                disable_git=True,
                save_code=False,
                silent=True,
                x_disable_meta=True,
                x_save_requirements=False,
                init_timeout=SECONDS_TO_ANSWER,
                finish_timeout=SECONDS_TO_SEND,
                finish_timeout_raises=True,
            ),
        )
        # A restart repeats steps: W&B would drop what is logged under a step that it has left behind.
        run.define_metric("*", step_metric="step")
        return run
