"""`turbosparse bench train`: a whole training step of ours, against a bare one and a plain loop.

All three train models of the same shape on the same sequences on one device and take turns:

- ours: the dReLU model under Composer, with the loader, clipping, guarding, measuring and recording;
- bare: the same module and optimizer, forward, backward, clipping and step, the batch at hand;
- plain: transformers' SwiGLU model of the same shape in a loop of a few lines.

Layers are compiled, in all three.
"""

import io
import json
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch
from composer import Trainer
from streaming import MDSWriter
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from transformers import MistralConfig, MistralForCausalLM

from turbosparse.config import TrainConfig, TrainingPlacement
from turbosparse.data.layout import INDEX_NAME, MIXTURE_NAME, ORDER_NAME, SHARD_HASH, TOKENS
from turbosparse.data.stream import open_mixture
from turbosparse.model.configuration import TurboSparseMistralConfig
from turbosparse.model.mistral import TurboSparseMistralForCausalLM
from turbosparse.train.callbacks.progress import observe_every_steps
from turbosparse.train.checkpoints import CheckpointStore
from turbosparse.train.history import read_history
from turbosparse.train.job import TrainJob
from turbosparse.train.module import CausalLMTraining
from turbosparse.train.recipe import build_optimizer, build_schedule
from turbosparse.train.trainer import build_trainer

STEPS_PER_TURN = 3
"""Of bare and plain; the first is not counted."""

Step = Callable[[], None]


@dataclass(frozen=True)
class Shape:
    """What is trained."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    vocab_size: int
    sequence_length: int
    batch_size_sequences: int

    def config(self) -> dict[str, Any]:
        """Returns the fields of a Mistral's configuration."""
        return {
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_heads,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.sequence_length,
            "sliding_window": None,
        }

    @property
    def step_tokens(self) -> int:
        """Tokens of an optimizer step."""
        return self.batch_size_sequences * self.sequence_length


def measure_training(shape: Shape, num_rounds: int, compiled: bool = True) -> dict[str, Any]:
    """Measures seconds per step of ours, bare and plain, by turns, after an untimed turn of each.

    A turn of ours is as long as it takes until the FFNs' activations have been measured once, as in a long
    training; its first step opens the loader anew and is not counted.

    Returns:
        ratio_vs_plain_loop: plain's seconds over ours; overhead_ratio: what ours takes more than bare,
        over bare; mfu: ours, None (with `mfu_why`) where the device's peak is not known; the medians in
        seconds, tokens per second, and what was measured on.
    """
    assert num_rounds > 0
    with tempfile.TemporaryDirectory(prefix="turbosparse-bench-") as folder:
        bench = _Bench(
            shape, Path(folder), compiled, num_steps=(1 + observe_every_steps()) * (num_rounds + 1)
        )
        bench.turn()
        turns = [bench.turn() for _ in range(num_rounds)]
        utilisation = bench.utilisation()
    ours, bare, plain = (median(seconds) for seconds in zip(*turns, strict=True))
    return {
        "ratio_vs_plain_loop": median(plain / ours for ours, _, plain in turns),
        "overhead_ratio": median(ours / bare for ours, bare, _ in turns) - 1,
        **utilisation,
        "step_seconds": {"ours": ours, "bare": bare, "plain": plain},
        "tokens_per_second": shape.step_tokens / ours,
        "shape": vars(shape),
        "is_compiled": compiled,
        "num_rounds": num_rounds,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "num_threads": torch.get_num_threads(),
    }


class _Bench:
    """The three ways, ready to take turns."""

    def __init__(self, shape: Shape, folder: Path, compiled: bool, num_steps: int) -> None:
        self._shape = shape
        _write_sequences(shape, folder)
        self._job = _job(shape, folder, num_steps)
        model = TurboSparseMistralForCausalLM(TurboSparseMistralConfig(**shape.config(), activation="drelu"))
        module = CausalLMTraining(_ready(model, compiled), self._job.recipe)
        dataset = open_mixture(folder, self._job.shards, shape.batch_size_sequences)
        batch = torch.stack([dataset[at]["input_ids"] for at in range(shape.batch_size_sequences)])
        checkpoints = CheckpointStore(self._job.checkpoints, self._job.identity)
        self._trainer, _ = build_trainer(self._job, module, dataset, checkpoints)
        self._bare = _bare_step(module, self._trainer, batch, self._job.recipe)
        theirs = MistralForCausalLM(MistralConfig(**shape.config(), use_cache=False))
        self._plain = _plain_step(_ready(theirs, compiled), batch, self._job.recipe)

    def turn(self) -> tuple[float, float, float]:
        """Returns seconds per step of ours (the mean), bare and plain (the median of the turn)."""
        return self._seconds_of_ours(), _seconds_of(self._bare), _seconds_of(self._plain)

    def utilisation(self) -> dict[str, Any]:
        """Returns the median MFU of our steps."""
        found = [record.mfu for record in read_history(self._job.history_path) if record.mfu is not None]
        why = {} if found else {"mfu_why": "the peak of this device is not known"}
        return {"mfu": median(found) if found else None, **why}

    def _seconds_of_ours(self) -> float:
        # What training tells its launcher is of no use here.
        with redirect_stdout(io.StringIO()):
            self._trainer.fit(duration=f"{1 + observe_every_steps()}ba")
        counted = read_history(self._job.history_path)[-observe_every_steps() :]
        return fmean(self._shape.step_tokens / record.tokens_per_second for record in counted)


def _bare_step(module: CausalLMTraining, trainer: Trainer, batch: Tensor, recipe: TrainConfig) -> Step:
    (optimizer,) = trainer.state.optimizers
    on_device = {"input_ids": batch.to(module.model.device)}

    def step() -> None:
        module.start_step(0.5, observes=False, tokens_per_sequence=batch.shape[1] - 1)
        with _autocast():
            loss = module.loss(module(on_device), on_device)
        loss.backward()
        clip_grad_norm_(module.parameters(), recipe.gradient_clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _plain_step(model: MistralForCausalLM, batch: Tensor, recipe: TrainConfig) -> Step:
    optimizer = build_optimizer(model, recipe, None)
    schedule = build_schedule(optimizer, recipe)
    ids = batch.to(model.device)

    def step() -> None:
        with _autocast():
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        clip_grad_norm_(model.parameters(), recipe.gradient_clip_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _seconds_of(step: Step) -> float:
    seconds = []
    for _ in range(STEPS_PER_TURN):
        started = time.perf_counter()
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return median(seconds[1:])


def _ready(model: Any, compiled: bool) -> Any:
    if compiled:
        for layer in model.model.layers:
            layer.compile()
    return model.to("cuda" if torch.cuda.is_available() else "cpu").train()


def _autocast() -> Any:
    return torch.autocast("cuda", torch.bfloat16) if torch.cuda.is_available() else nullcontext()


def _job(shape: Shape, folder: Path, num_steps: int) -> TrainJob:
    return TrainJob(
        name="pretrain",
        identity="bench",
        recipe=TrainConfig(
            num_steps=num_steps,
            batch_size_sequences=shape.batch_size_sequences,
            learning_rate=1e-4,
            warmup_steps=1,
        ),
        model_folder="",
        data_folder=str(folder),
        shards=str(folder / TOKENS),
        state_folder=str(folder),
        checkpoints=str(folder / "checkpoints"),
        num_ranks=1,
        device_batch_size_sequences=shape.batch_size_sequences,
        checkpoint_interval_steps=num_steps + 1,
        hardware=TrainingPlacement(compile=True),
    )


def _write_sequences(shape: Shape, folder: Path) -> None:
    """Writes a prepared corpus of random tokens: what they are costs nothing and teaches nothing."""
    num_sequences = 64 * shape.batch_size_sequences
    tokens = np.random.default_rng(17).integers(shape.vocab_size, size=(num_sequences, shape.sequence_length))
    columns = {TOKENS: "ndarray:int32"}
    with MDSWriter(out=str(folder / TOKENS), columns=columns, hashes=[SHARD_HASH]) as writer:
        for sequence in tokens.astype(np.int32):
            writer.write({TOKENS: sequence})
    (folder / INDEX_NAME).write_bytes((folder / TOKENS / "index.json").read_bytes())
    counts = {"random": num_sequences}
    mixture = {"sequence_length": shape.sequence_length, "sequences": counts, "on_disk": counts}
    (folder / MIXTURE_NAME).write_text(json.dumps(mixture))
    np.save(folder / ORDER_NAME, np.zeros(num_sequences, np.int64))
