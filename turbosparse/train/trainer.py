"""One training run on all ranks, through Composer."""

from pathlib import Path

import torch
from composer import DataSpec, Trainer
from composer.core import Callback
from composer.utils import dist
from streaming import StreamingDataLoader, StreamingDataset
from transformers import PreTrainedModel, set_seed

from turbosparse.data.layout import TOKENIZER_NAME
from turbosparse.data.sft_stream import open_instructions
from turbosparse.data.stream import open_mixture
from turbosparse.data.tokenizer import load_tokenizer
from turbosparse.errors import DataError
from turbosparse.model.layout import OurConfig
from turbosparse.train.callbacks.checkpointing import Checkpointing
from turbosparse.train.callbacks.evaluation import TaskEvaluation
from turbosparse.train.callbacks.guard import StepGuard
from turbosparse.train.callbacks.profiling import Profiling
from turbosparse.train.callbacks.progress import StepProgress
from turbosparse.train.callbacks.validation import Validation
from turbosparse.train.checkpoints import Checkpoint, CheckpointStore
from turbosparse.train.history import decode_history
from turbosparse.train.inputs import with_local_inputs
from turbosparse.train.job import TrainJob
from turbosparse.train.launch.heartbeat import beat
from turbosparse.train.launch.shared_memory import note_own_segments
from turbosparse.train.levers import load_teacher
from turbosparse.train.module import CausalLMTraining
from turbosparse.train.recipe import build_optimizer, build_schedule
from turbosparse.train.sharding import build_sharded_model
from turbosparse.train.state import HISTORY_NAME, TrainingState
from turbosparse.train.tracking import WandbLogger


def train(job: TrainJob) -> None:
    """Trains to the last step, resuming after the last checkpoint, and saves the model as one more.

    Runs on every rank; the device (GPU or CPU) is chosen by what the machine has.

    Raises:
        TurboSparseError: The data, the model and the checkpoints do not belong together.
        TrainingDiverged: A step's loss or gradient was not to be trusted.
        TrainingPreempted: The process was told to stop, and has saved where it was.
    """
    set_seed(job.recipe.seed)
    Path(job.state_folder).mkdir(parents=True, exist_ok=True)
    job = with_local_inputs(job)
    checkpoints = _open_checkpoints(job)
    latest = checkpoints.latest()
    if latest is not None and latest.step == job.recipe.num_steps:
        return  # the result is there: whoever started this was interrupted before it heard
    model = build_sharded_model(
        job.model_folder,
        vocab_size=job.vocab_size,
        predictor_rank=_predictor_rank(job),
        seed=job.recipe.seed,
        device=f"cuda:{dist.get_local_rank()}" if torch.cuda.is_available() else "cpu",
    )
    _compute_as_placed(job, model)
    teacher = load_teacher(job.teacher_folder, model.config.vocab_size) if job.teacher_folder else None
    module = CausalLMTraining(model.train(), job.recipe, job.predictor, teacher)
    dataset = _open_data(job, model.config)
    trainer, state = build_trainer(job, module, dataset, checkpoints)
    assert trainer.state.fsdp_enabled == (job.num_ranks > 1), "Composer fell back to DDP"
    note_own_segments()
    try:
        if latest is not None:
            _resume(checkpoints, latest, state)
        trainer.fit()
        beat("writing the result", is_slow=True)
        checkpoints.save(job.recipe.num_steps, state.weights(), state.record(), state.files())
    finally:
        # Ends W&B's run. The trainer's own close would wait for ranks that an error keeps from coming.
        trainer.engine.close()


def _open_checkpoints(job: TrainJob) -> CheckpointStore:
    placed = job.hardware
    return CheckpointStore(
        job.checkpoints,
        job.identity,
        keep_last=placed.keep_checkpoints,
        keep_every_steps=placed.keep_every_steps,
    )


def _predictor_rank(job: TrainJob) -> int | list[int] | None:
    rank = job.predictor.rank if job.predictor else None
    return list(rank) if isinstance(rank, tuple) else rank


def _compute_as_placed(job: TrainJob, model: PreTrainedModel) -> None:
    if job.hardware.activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    # Predictors and the sparsity penalty observe every step, which compiled layers can't be.
    if job.hardware.compile and job.predictor is None and job.recipe.sparsity_penalty is None:
        for layer in model.model.layers:
            layer.compile()


def _open_data(job: TrainJob, config: OurConfig) -> StreamingDataset:
    folder, batch_size = Path(job.data_folder), job.rank_batch_size_sequences
    if job.name == "finetune":
        dataset = open_instructions(folder, batch_size)
    else:
        separator = config.bos_token_id if job.recipe.attend_within_documents else None
        dataset = open_mixture(folder, job.shards, batch_size, separator)
    _check_data(job, dataset, config)
    return dataset


def _check_data(job: TrainJob, dataset: StreamingDataset, config: OurConfig) -> None:
    tokens = dataset[0]["input_ids"]
    if len(tokens) > config.max_position_embeddings:
        raise DataError(
            "data",
            f"sequences of {len(tokens)} tokens",
            f"at most the model's context of {config.max_position_embeddings} tokens",
            "prepare the data again with a shorter sequence_length",
        )
    tokenizer = load_tokenizer(Path(job.data_folder) / TOKENIZER_NAME)
    if len(tokenizer) > config.vocab_size or tokenizer.bos_token_id != config.bos_token_id:
        raise DataError(
            "data",
            f"a tokenizer of {len(tokenizer)} entries, BOS {tokenizer.bos_token_id}",
            f"one of at most {config.vocab_size}, BOS {config.bos_token_id}, as the model has",
            "prepare the data again with the model's own tokenizer",
        )
    if len(dataset) < job.recipe.batch_size_sequences:
        raise DataError(
            "batch_size_sequences",
            job.recipe.batch_size_sequences,
            f"at most the data's {len(dataset)} sequences",
            "lower it or give more data",
        )


def build_trainer(
    job: TrainJob, module: CausalLMTraining, dataset: StreamingDataset, checkpoints: CheckpointStore
) -> tuple[Trainer, TrainingState]:
    """Returns Composer's trainer with our callbacks, and what it resumes from."""
    sequence_length = len(dataset[0]["input_ids"])
    optimizer = build_optimizer(module, job.recipe, job.predictor)
    guard = StepGuard(job.recipe)
    measured = Validation(job, sequence_length), TaskEvaluation(job)
    progress = StepProgress(job, sequence_length, guard, *measured)
    callbacks: list[Callback] = [guard, progress]
    if job.hardware.profile_at_step is not None:
        callbacks.append(Profiling(job))
    trainer = Trainer(
        model=module,
        train_dataloader=_open_loader(job, dataset),
        max_duration=f"{job.recipe.num_steps}ba",
        optimizers=optimizer,
        schedulers=build_schedule(optimizer, job.recipe),
        step_schedulers_every_batch=True,
        callbacks=callbacks,
        loggers=[WandbLogger(job)] if job.hardware.wandb else [],
        precision="amp_bf16" if torch.cuda.is_available() else "fp32",
        device_train_microbatch_size=job.device_batch_size_sequences,
        run_name=f"{job.name}-{job.identity}",
        seed=job.recipe.seed,
        progress_bar=False,
    )
    state = TrainingState(job, trainer, dataset, guard)
    # First: the others' clocks start anew after it.
    trainer.state.callbacks.insert(0, Checkpointing(job, checkpoints, state))
    return trainer, state


def _open_loader(job: TrainJob, dataset: StreamingDataset) -> DataSpec:
    loader = StreamingDataLoader(
        dataset,
        batch_size=job.rank_batch_size_sequences,
        num_workers=job.hardware.num_loader_workers if torch.cuda.is_available() else 0,
        drop_last=True,
    )
    return DataSpec(loader, get_num_tokens_in_batch=lambda batch: batch["input_ids"].numel())


def _resume(checkpoints: CheckpointStore, found: Checkpoint, state: TrainingState) -> None:
    checkpoints.load(found, state.tensors())
    state.restore(found.record, decode_history(found.file(HISTORY_NAME).decode()))
