"""`turbosparse bench predictors`: what training predictors beside a model adds to its training step."""

import time
from contextlib import AbstractContextManager, nullcontext
from statistics import median
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, set_seed

from turbosparse.config import PredictorConfig
from turbosparse.model.configuration import TurboSparseMistralConfig
from turbosparse.model.mistral import TurboSparseMistralForCausalLM
from turbosparse.train.observer import TrainingObserver

# A vocabulary this small costs nothing: what is compared is the layers alone, and the share in a whole
# model, whose output projection takes its time too, is smaller.
VOCAB_SIZE = 256
HEAD_SIZE = 64
OBSERVED_STEPS = 5
"""Training counts hits in every fifth step."""


def measure_predictor_cost(
    hidden_size: int, intermediate_size: int, num_layers: int, rank: int, num_tokens: int, repetitions: int
) -> dict[str, Any]:
    """Measures a training step of decoder layers with predictors over one without.

    Forward, backward and AdamW on the same model, by turns, after an untimed step of each; bf16 on a GPU,
    fp32 elsewhere.

    Returns:
        predictor_time_ratio: median over rounds of added seconds over those without, from rounds in
        which hits are counted and such in which they are not, as often as in training;
        flops_ratio: the same from counting multiplications; seconds; sizes.
    """
    assert repetitions > 0
    set_seed(0)
    model = _layers(hidden_size, intermediate_size, num_layers, rank)
    observer = TrainingObserver(PredictorConfig(rank=rank))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    tokens = torch.randint(0, VOCAB_SIZE, (2, num_tokens // 2), device=model.device)

    def seconds(trains_predictors: bool, counts: bool = False) -> float:
        observer.start_step(counts=counts)
        watching = observer.watching(model, observer) if trains_predictors else nullcontext()
        return _step_seconds(model, observer, optimizer, tokens, watching)

    seconds(False), seconds(True, counts=True)
    plain, quiet, counted = [], [], []
    for _ in range(repetitions):
        plain.append(seconds(False))
        quiet.append(seconds(True))
        counted.append(seconds(True, counts=True))
    added = [
        (quietly * (OBSERVED_STEPS - 1) + counting) / OBSERVED_STEPS / without - 1
        for quietly, counting, without in zip(quiet, counted, plain, strict=True)
    ]
    return {
        "predictor_time_ratio": median(added),
        "flops_ratio": _flops_ratio(model, hidden_size, intermediate_size, rank),
        "seconds_without": median(plain),
        "seconds_with": median(quiet),
        "seconds_counted": median(counted),
        "device": torch.cuda.get_device_name() if model.device.type == "cuda" else "cpu",
        "num_threads": torch.get_num_threads(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size,
        "num_layers": num_layers,
        "rank": rank,
        "num_tokens": num_tokens,
        "repetitions": repetitions,
    }


def _layers(hidden_size: int, intermediate_size: int, num_layers: int, rank: int) -> PreTrainedModel:
    on_gpu = torch.cuda.is_available()
    config = TurboSparseMistralConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=num_layers,
        num_attention_heads=max(1, hidden_size // HEAD_SIZE),
        num_key_value_heads=max(1, hidden_size // HEAD_SIZE),
        predictor_rank=rank,
        sliding_window=None,
    )
    model = TurboSparseMistralForCausalLM(config).train()
    return model.to("cuda", torch.bfloat16) if on_gpu else model


def _step_seconds(
    model: PreTrainedModel,
    observer: TrainingObserver,
    optimizer: torch.optim.Optimizer,
    tokens: Tensor,
    watching: AbstractContextManager[None],
) -> float:
    optimizer.zero_grad()
    _wait(model)
    started = time.perf_counter()
    with watching:
        loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
    predictor_loss = observer.predictor_loss()
    (loss if predictor_loss is None else loss + predictor_loss).backward()
    optimizer.step()
    _wait(model)
    return time.perf_counter() - started


def _flops_ratio(model: PreTrainedModel, hidden_size: int, intermediate_size: int, rank: int) -> float:
    """Returns a predictor's multiplications over its layer's, attention scores apart.

    A layer's weights are multiplied three times per token: forward, for the input's gradient and for
    the weights'. fc1's only twice, since its input is detached.
    """
    layer = sum(
        weight.numel()
        for name, weight in model.model.layers[0].named_parameters()
        if weight.dim() == 2 and ".predictor." not in name
    )
    return rank * (2 * hidden_size + 3 * intermediate_size) / (3 * layer)


def _wait(model: PreTrainedModel) -> None:
    if model.device.type == "cuda":
        torch.cuda.synchronize()
