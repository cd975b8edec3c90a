"""Evaluation tasks while training runs, on the model as it then is."""

import tempfile
from pathlib import Path

from composer.core import State
from composer.core.precision import get_precision_context

from turbosparse.data.layout import HELD_BACK_NAME, TOKENIZER_NAME
from turbosparse.data.tokenizer import load_tokenizer
from turbosparse.errors import ConfigError
from turbosparse.evaluation.harness import EvaluationOptions, evaluate_model
from turbosparse.evaluation.loading import Sources, load_tasks
from turbosparse.evaluation.suites import plan_tasks
from turbosparse.progress import Progress
from turbosparse.train.callbacks.ranks import module_of, reshard
from turbosparse.train.job import TrainJob
from turbosparse.train.launch.heartbeat import beat


class TaskEvaluation:
    """Measures evaluation tasks at an interval; every rank measures all items.

    Sharing the items out would be faster, but under FSDP2 all ranks must run every layer equally often.
    """

    def __init__(self, job: TrainJob) -> None:
        """Loads the tasks once, so that what can't be evaluated stops training before its first step.

        Raises:
            DataError: An unknown task, or no data for one.
            ConfigError: Several ranks, and a task that generates text.
        """
        self._wanted, self._num_steps = job.hardware.evaluation, job.recipe.num_steps
        if self._wanted is None:
            return
        self._interval = self._wanted.interval_steps or max(1, -(-self._num_steps // 4))
        self._tokenizer = load_tokenizer(Path(job.data_folder) / TOKENIZER_NAME)
        held_back = Path(job.held_back_folder) / HELD_BACK_NAME if job.held_back_folder else None
        self._sources = Sources(Path(job.evaluation_data) if job.evaluation_data else None, held_back)
        beat("loading evaluation tasks", is_slow=True)
        self._check_tasks(job.num_ranks)

    def results_of(self, step: int, state: State) -> dict[str, float] | None:
        """Returns figures by `task.metric` after this step if they are due; every rank must ask."""
        is_last = step == self._num_steps
        if self._wanted is None or (step % self._interval and not is_last):
            return None
        model = module_of(state).model
        try:
            with get_precision_context(state.precision):
                found = evaluate_model(
                    model,
                    self._tokenizer,
                    self._wanted.tasks,
                    self._sources.data_folder,
                    self._wanted.limit,
                    _beat,
                    EvaluationOptions(held_back=self._sources.held_back),
                )
        finally:
            reshard(model)
        return {
            f"{task}.{metric}": value
            for task, figures in found.results.items()
            for metric, value in figures.items()
            if "_stderr" not in metric
        }

    def _check_tasks(self, num_ranks: int) -> None:
        assert self._wanted is not None
        with tempfile.TemporaryDirectory(prefix="turbosparse-tasks-") as scratch:
            loaded = load_tasks(plan_tasks(self._wanted.tasks).tasks, self._sources, Path(scratch))
        generating = [name for name, task in loaded.tasks.items() if task.OUTPUT_TYPE == "generate_until"]
        # Ranks end a text where their own rounding ends it: one would wait for another's layers.
        if generating and num_ranks > 1:
            expected = "with several ranks, tasks that score answers"
            remedy = "leave it out here, and evaluate the finished model on it"
            raise ConfigError("training.evaluation.tasks", generating[0], expected, remedy)


def _beat(progress: Progress) -> None:
    beat(f"evaluating, {progress.completed} of {progress.total}")
