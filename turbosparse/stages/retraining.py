"""A retraining: a run branches from the champion's recovered model, and its candidate is promoted."""

from dataclasses import replace
from typing import Any

from turbosparse.config import PipelineConfig, TrainConfig
from turbosparse.errors import ConfigError
from turbosparse.evaluation.suites import plan_tasks
from turbosparse.promotion import Champions, Promotion
from turbosparse.promotion.branch import branch_from
from turbosparse.stages.run import Run
from turbosparse.stages.specs import Specs


def branched(run: Run) -> Run:
    """Returns the run that goes on from the root's champion; the run itself where there is none yet.

    Raises:
        TurboSparseError: The champion was made with another preset, or is damaged; the gate asks for what
            will not be measured.
    """
    _check_gate(run.config)
    if run.tuned is not None or run.inputs.evaluated_model is not None:
        remedy = "leave it out: a retraining measures its own candidate and the champion"
        raise ConfigError("placement.evaluated_model", run.placement.evaluated_model, "none", remedy)
    champions = Champions(run.store.root)
    last_number, champion = champions.last_number(), champions.current()
    if champion is None:
        return run
    _check_preset(run.preset, champion)
    branch = branch_from(run.store, champion.champion, last_number)
    pretrain = TrainConfig.model_validate(run.config.pretrain.model_dump() | rewarmed(run.config))
    return replace(run, branch=branch, config=run.config.model_copy(update={"pretrain": pretrain}))


def rewarmed(config: PipelineConfig) -> dict[str, Any]:
    """Returns what a retraining changes of the pretraining recipe.

    Schedules that lead from SwiGLU to the model's activation, and from short sequences to long ones, have
    been gone through already.
    """
    wanted, recipe = config.retrain, config.pretrain
    num_steps = max(round(wanted.steps_ratio * recipe.num_steps), 1)
    return {
        "num_steps": num_steps,
        "learning_rate": wanted.learning_rate_ratio * recipe.learning_rate,
        "warmup_steps": min(round(wanted.warmup_ratio * num_steps), num_steps - 1),
        "activation_schedule": None,
        "sequence_warmup": None,
    }


def nothing_to_learn(run: Run) -> str | None:
    """Returns why a retraining would be in vain; None where it would not.

    It would be where corpora and instructions are the champion's own, and where the same candidate was
    promoted and withdrawn: a roll-back must outlast the next run of a schedule.
    """
    if run.branch is None:
        return None
    specs = Specs(run)
    if specs.export.name in Champions(run.store.root).withdrawn():
        return f"{specs.export.name} was rolled back: it is what this text would make again"
    corpus, instructions = run.branch.corpus, run.branch.instructions
    is_same = (
        corpus.inputs["corpora"] == specs.prepare.inputs["corpora"]
        and corpus.config == specs.prepare.config
        and instructions.inputs == specs.instructions.inputs
        and instructions.config == specs.instructions.config
    )
    if run.config.retrain.needs_new_data and is_same:
        return f"corpora and instructions are those that {run.branch.champion.name} was made from"
    return None


def champion_run(run: Run) -> Run:
    """Returns the run with the champion as its tuned model, so that both are measured alike."""
    assert run.branch is not None
    return replace(run, tuned=run.branch.tuned)


def promote_candidate(run: Run) -> Promotion:
    """Makes the run's export the champion. The gate's verdict must have been in its favour.

    Raises:
        ArtifactError: Another promotion came in between.
    """
    store, specs = run.store, Specs(run)
    verdict, export = store.find(specs.verdict), store.find(specs.export)
    assert verdict is not None
    assert export is not None
    assert verdict.manifest.metrics["holds"], "the gate refused the candidate"
    return Champions(store.root).promote(
        export.manifest.name,
        "retrained",
        after=run.branch.last_number if run.branch is not None else 0,
        verdict=verdict.manifest.name,
        preset=run.preset,
    )


def _check_gate(config: PipelineConfig) -> None:
    """Refuses a gate that would find nothing to judge by when all the work is done."""
    wanted = config.retrain.gate.perplexity
    tasks = [task.name for task in plan_tasks(config.evaluate.tasks).tasks]
    if wanted.partition(".")[0] not in tasks:
        expected = f"a figure of a task that is evaluated: {', '.join(tasks)}"
        remedy = "set it to one of theirs, or add its task to evaluate.tasks"
        raise ConfigError("retrain.gate.perplexity", wanted, expected, remedy)


def _check_preset(preset: str, champion: Promotion) -> None:
    if champion.preset not in (None, preset):
        remedy = "retrain it with its own preset, or use another root"
        raise ConfigError("preset", preset, f"{champion.preset}, the champion's", remedy)
