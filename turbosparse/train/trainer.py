"""One training run on all ranks, through Composer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from composer import DataSpec, Trainer
from composer.core import Event, State
from composer.utils import dist
from composer.utils.parallelism import FSDP2Config, ParallelismConfig
from streaming import StreamingDataLoader, StreamingDataset
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from transformers import PreTrainedModel, set_seed

from turbosparse.data.sft_stream import open_instructions
from turbosparse.data.stream import open_mixture
from turbosparse.model.convert import add_vocabulary, with_predictors
from turbosparse.model.folder import load_model, save_model
from turbosparse.train.callbacks.clipping import GradientNormClipping
from turbosparse.train.callbacks.progress import StepProgress
from turbosparse.train.job import TrainJob
from turbosparse.train.module import CausalLMTraining
from turbosparse.train.recipe import build_optimizer, build_schedule


def train(job: TrainJob) -> None:
    """Trains to the last step, resuming from the last checkpoint, and writes the model.

    Runs on every rank; the device (GPU or CPU) is chosen by what the machine has.
    """
    set_seed(job.recipe.seed)
    model = _prepare_model(job)
    module = CausalLMTraining(model, job.recipe.router_aux_loss_ratio, job.predictor)
    dataset = _open_data(job, model.config.bos_token_id)
    trainer = _build_trainer(job, module, dataset)
    assert trainer.state.fsdp_enabled == (job.num_ranks > 1), "Composer fell back to DDP"
    trainer.fit()
    _write_model(model, Path(job.output_folder))
    trainer.close()


def _prepare_model(job: TrainJob) -> PreTrainedModel:
    model = load_model(job.model_folder)
    if job.vocab_size is not None:
        add_vocabulary(model, job.vocab_size)
    if job.predictor is not None:
        model = with_predictors(model, job.predictor.rank, job.recipe.seed)
    return model.train()


def _open_data(job: TrainJob, bos_token_id: int) -> StreamingDataset:
    folder, batch_size = Path(job.data_folder), job.rank_batch_size_sequences
    if job.name == "finetune":
        return open_instructions(folder, batch_size)
    return open_mixture(
        folder, job.shards, batch_size, bos_token_id if job.recipe.attend_within_documents else None
    )


def _build_trainer(job: TrainJob, module: CausalLMTraining, dataset: StreamingDataset) -> Trainer:
    sequence_length = len(dataset[0]["input_ids"])
    on_gpu = torch.cuda.is_available()
    loader = StreamingDataLoader(
        dataset, batch_size=job.rank_batch_size_sequences, num_workers=2 if on_gpu else 0, drop_last=True
    )
    return Trainer(
        model=module,
        train_dataloader=DataSpec(loader, get_num_tokens_in_batch=_count_tokens),
        max_duration=f"{job.recipe.num_steps}ba",
        optimizers=build_optimizer(module, job.recipe, job.predictor),
        schedulers=build_schedule(job.recipe),
        callbacks=[GradientNormClipping(job.recipe.gradient_clip_norm), StepProgress(job, sequence_length)],
        precision="amp_bf16" if on_gpu else "fp32",
        device_train_microbatch_size=job.device_batch_size_sequences,
        parallelism_config=_sharding(job),
        seed=job.recipe.seed,
        progress_bar=False,
        **_checkpoints(job),
    )


def _sharding(job: TrainJob) -> ParallelismConfig | None:
    # One rank has nothing to shard, and FSDP's copies would cost a step of 300m about a tenth.
    if job.num_ranks == 1:
        return None
    return ParallelismConfig(fsdp2=FSDP2Config(state_dict_type="sharded"))


def _checkpoints(job: TrainJob) -> dict[str, Any]:
    # Sharded and whole checkpoints can't be read as each other: each has a folder of its own.
    layout = "sharded" if job.num_ranks > 1 else "whole"
    return {
        "run_name": job.name,
        "save_folder": str(Path(job.state_folder) / f"checkpoints-{layout}"),
        "save_interval": _is_checkpoint_due(job),
        "save_num_checkpoints_to_keep": 1,
        "save_overwrite": True,
        "autoresume": True,
    }


def _is_checkpoint_due(job: TrainJob) -> Callable[[State, Event], bool]:
    def is_due(state: State, event: Event) -> bool:
        step = state.timestamp.batch.value
        # The last step's model is written as the stage's result: a checkpoint would repeat it.
        is_last = step >= job.recipe.num_steps
        return event == Event.BATCH_CHECKPOINT and not is_last and step % job.checkpoint_interval_steps == 0

    return is_due


def _count_tokens(batch: dict[str, torch.Tensor]) -> int:
    return batch["input_ids"].numel()


def _write_model(model: PreTrainedModel, folder: Path) -> None:
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state_dict = get_model_state_dict(model, options=options)
    if dist.get_global_rank() == 0:
        save_model(model, folder, state_dict)
    dist.barrier()
