"""A run: what is computed, where, from which inputs, into which store."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from turbosparse.artifacts import ArtifactSpec, Store
from turbosparse.artifacts.endpoint import use_endpoint
from turbosparse.config import PipelineConfig, Placement, TrainConfig, resolve, validate
from turbosparse.data.corpora import Corpora
from turbosparse.data.instruction_rows import InstructionRows, open_instructions_rows
from turbosparse.errors import ConfigError
from turbosparse.evaluation.local_tasks import LOCAL_TASKS
from turbosparse.evaluation.suites import plan_tasks
from turbosparse.plan.budget import check_budget
from turbosparse.promotion.branch import Branch
from turbosparse.stages.evaluated import find_evaluated
from turbosparse.stages.inputs import Inputs, digest_inputs, open_run_corpora
from turbosparse.train.launch import open_launcher
from turbosparse.workers import MapJobs, Processes, Threads, map_inline


@dataclass(frozen=True)
class Run:
    """Everything that a stage needs to know."""

    preset: str
    config: PipelineConfig
    placement: Placement
    corpora: Corpora
    instructions: InstructionRows
    inputs: Inputs
    store: Store
    notes: tuple[str, ...] = ()
    """What was changed to fit the inputs, for the user to see."""
    map_jobs: MapJobs = map_inline
    """Who does a stage's many coarse jobs."""
    branch: Branch | None = None
    """The champion that a retraining goes on from; None: the run begins with its source."""
    tuned: ArtifactSpec | None = None
    """A tuned model that is measured in place of the run's own."""


def open_run(
    preset: str,
    overrides: Mapping[str, Any] | None = None,
    dry_run: bool = False,
    placement: Placement | None = None,
) -> Run:
    """Resolves and checks a run completely; only the root folder may be created.

    Raises:
        TurboSparseError: Anything about it can't work; the message says what to do.
    """
    place = placement or Placement()
    use_endpoint(place.access.endpoint_url)
    config, notes = _fit_inputs(resolve(preset, overrides, dry_run), place, dry_run)
    for name, recipe in _recipes(config).items():
        check_divides(name, recipe, place)
        _check_has_a_teacher(name, recipe, config.convert.source)
    check_budget(config, place)
    _check_tasks(config, place)
    open_launcher(place)  # so that a placement that can't train is refused before anything runs
    # Opened once: the hub's data sets are pinned by the instance that reads them.
    corpora = open_run_corpora(config, place)
    instructions = open_instructions_rows(config.finetune.instructions, place.instructions)
    inputs = digest_inputs(config, place, corpora)
    store = Store(place.root, cache_gib=place.cache_gib)
    _check_pods_can_read(config, place, store)
    store.check_writable()
    run = Run(preset, config, place, corpora, instructions, inputs, store, tuple(notes), _workers(place))
    evaluated = find_evaluated(place, store)
    if evaluated is None:
        return run
    inputs = replace(inputs, evaluated_model=evaluated.digest)
    return replace(run, tuned=evaluated.artifact, inputs=inputs)


def _workers(placement: Placement) -> MapJobs:
    # A Dask cluster belongs to whoever orchestrates the run: tasks/groups.py brings it.
    if placement.num_workers == 1:
        return map_inline
    return (Threads if placement.workers == "threads" else Processes)(placement.num_workers)


def check_divides(name: str, recipe: TrainConfig, placement: Placement) -> None:
    """Refuses ranks and microbatches that do not divide the global batch.

    Raises:
        ConfigError: Names the field.
    """
    batch, ranks = recipe.batch_size_sequences, placement.num_ranks_total
    if batch % ranks:
        raise ConfigError(
            "placement.num_ranks",
            ranks,
            f"a divisor of {name}.batch_size_sequences={batch}",
            "change one of them",
        )
    microbatch = placement.device_batch_size_sequences
    if microbatch is not None and (batch // ranks) % microbatch:
        raise ConfigError(
            "placement.device_batch_size_sequences",
            microbatch,
            f"a divisor of {batch // ranks}, {name}'s sequences per rank",
            "change one of them",
        )


def _check_has_a_teacher(name: str, recipe: TrainConfig, source: str) -> None:
    if recipe.distillation is not None and (source == "random" or name != "pretrain"):
        expected = "pretrain only, of a model that has a SwiGLU original (convert.source: folder or base)"
        remedy = f"give --set {name}.distillation=null"
        raise ConfigError(f"{name}.distillation", f"with convert.source: {source}", expected, remedy)


def _check_tasks(config: PipelineConfig, placement: Placement) -> None:
    """Refuses tasks that can't be evaluated, rather than after the training that comes before."""
    tasks = plan_tasks(config.evaluate.tasks, config.evaluate.num_fewshot).tasks
    if all(task.name in LOCAL_TASKS for task in tasks):
        return
    from turbosparse.evaluation.loading import check_tasks  # noqa: PLC0415 - the harness takes seconds

    check_tasks(tasks, Path(placement.evaluation_data) if placement.evaluation_data else None)


def _check_pods_can_read(config: PipelineConfig, placement: Placement, store: Store) -> None:
    """Refuses a JobSet whose pods would look for files of this machine."""
    if placement.launcher != "jobset" or (placement.jobset and placement.jobset.claims):
        return
    found = {
        "placement.root": store.local_root is not None,
        "convert.source: base": config.convert.source == "base",
        "pretrain.distillation": config.pretrain.distillation is not None,
    }
    for name, is_local in found.items():
        if is_local:
            expected = "files that the JobSet's pods can read"
            remedy = "give an object store as root, or mount a shared disk with jobset.claims"
            raise ConfigError(name, "lies on this machine", expected, remedy)


def _fit_inputs(
    config: PipelineConfig, placement: Placement, dry_run: bool
) -> tuple[PipelineConfig, list[str]]:
    tree = config.model_dump(mode="json")
    notes: list[str] = []
    if placement.corpora:
        tree["data"]["corpora"] = "folder"
    if placement.instructions:
        tree["finetune"]["instructions"] = "folder"
    if placement.evaluation_data:
        tree["data"]["decontaminate"] = "folder"
    if placement.source:
        tree["convert"] |= {"source": "folder", "base": None}
        _fit_context(tree, Path(placement.source), dry_run, notes)
    elif config.convert.source == "folder":
        remedy = "give one with --source DIR (placement.source)"
        raise ConfigError("placement.source", None, "a Hugging Face folder of a SwiGLU model", remedy)
    return validate(PipelineConfig, tree, source="the run"), notes


def _fit_context(tree: dict[str, Any], source: Path, dry_run: bool, notes: list[str]) -> None:
    # Imported here: transformers takes seconds, and most runs have no source.
    from turbosparse.model.convert import check_convertible  # noqa: PLC0415

    check_convertible(source)
    context = json.loads((source / "config.json").read_text(encoding="utf-8"))["max_position_embeddings"]
    tree["model"]["context_length"] = max(context, tree["model"]["context_length"])
    for stage in ("data", "finetune"):
        wanted = tree[stage]["sequence_length"]
        if wanted <= context:
            continue
        if not dry_run:
            raise ConfigError(
                f"{stage}.sequence_length",
                wanted,
                f"at most the source model's context of {context} tokens",
                f"give --set {stage}.sequence_length={context}",
            )
        tree[stage]["sequence_length"] = context
        notes.append(f"{stage}.sequence_length: {wanted} → {context}, the source model's context")


def _recipes(config: PipelineConfig) -> dict[str, TrainConfig]:
    recipes: dict[str, TrainConfig] = {"pretrain": config.pretrain, "finetune": config.finetune}
    if config.convert.base is not None:
        recipes["convert.base"] = config.convert.base
    return recipes
