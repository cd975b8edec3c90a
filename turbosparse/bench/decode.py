"""`turbosparse bench decode`: what sparse decoding gains over dense, side by side in one run."""

import platform
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from turbosparse.bench.decode_kernels import KernelCase, KernelPrecision, measure_kernels
from turbosparse.bench.decode_models import ModelBench, Precision, measure_model
from turbosparse.bench.decode_peer import llama_cpp, why_no_llama_cpp
from turbosparse.bench.decode_rounds import num_threads
from turbosparse.bench.decode_shapes import MISTRAL, MIXTRAL, Shape, steered_model
from turbosparse.inference.memory import measure_bandwidth
from turbosparse.inference.operators import has_backend

# A kernel's turn takes a hundredth of a second, a model's several tenths: so many more fit.
KERNEL_ROUNDS_PER_ROUND = 6
KERNEL_PRECISIONS: tuple[KernelPrecision, ...] = ("bf16", "fp32", "int8", "int4")


@dataclass(frozen=True)
class DecodePlan:
    """What the benchmark measures."""

    mistral: Shape = MISTRAL
    mixtral: Shape = MIXTRAL
    low_rank: int = 512
    """Rank of Mistral's predictors in a second measurement: what smaller ones than the released gain."""
    num_rounds: int = 9
    """Medians are over these, and over more of single FFNs; in each, all ways run by turns."""
    with_peer: bool = True
    """Whether llama.cpp is measured, where it is installed."""


class DecodeBench:
    """One run of the benchmark."""

    def __init__(self, plan: DecodePlan) -> None:
        self.plan = plan
        self.threads = sorted({1, torch.get_num_threads()})
        self.why = why_no_llama_cpp() if plan.with_peer else "llama.cpp was not asked for"
        self.bandwidth = {}
        for threads in self.threads:
            with num_threads(threads):
                self.bandwidth[threads] = measure_bandwidth()

    def kernels(self) -> dict[str, Any]:
        """Returns speeds of one FFN by precision and number of threads; bf16 at all ratios, else 10%."""
        report: dict[str, Any] = {}
        num_rounds = KERNEL_ROUNDS_PER_ROUND * self.plan.num_rounds
        sizes = self.plan.mistral.hidden_size, self.plan.mistral.intermediate_size
        for precision in KERNEL_PRECISIONS:
            case = KernelCase.make(*sizes, precision)
            ratios = {} if precision == "bf16" else {"ratios": (0.1,)}
            report[precision] = {
                threads: measure_kernels(case, self.bandwidth[threads], threads, num_rounds, **ratios)
                for threads in self.threads
            }
        return report

    def models(self, shape: Shape, precisions: tuple[Precision, ...]) -> dict[str, Any]:
        """Returns whole models' speeds by precision and number of threads."""
        model = steered_model(shape)
        report: dict[str, Any] = {}
        for precision in precisions:
            bench = ModelBench.make(model, shape, precision)
            report[precision] = {threads: self._model(bench, threads) for threads in self.threads}
        return report

    def _model(self, bench: ModelBench, threads: int) -> dict[str, Any]:
        has_peer = self.why is None and bench.precision in ("bf16", "int4")
        peer = llama_cpp(bench.shape, bench.precision, threads) if has_peer else nullcontext()
        with peer as engine:
            return measure_model(bench, self.bandwidth[threads], threads, self.plan.num_rounds, engine)


def measure_decoding(plan: DecodePlan) -> dict[str, Any]:
    """Measures dense and sparse decoding on this machine's CPU.

    Weights are random; which neurons are active is known (see decode_shapes.py). A model's figures are
    derived: some layers are measured, with their share of attention, keys and values, norms and
    predictors; the whole model is `num_layers` of these and one output projection.

    Returns:
        memory_bandwidth_bytes_per_second; kernel: by active ratio, the sparse FFN's speed over the best
        dense one's in bf16, and its share of the ratio of bytes; mistral, mixtral: `exact` and
        `predicted` over the best dense decoder in bf16, mistral's with predictors of a lower rank and
        mixtral's in int4 too; all with all threads.
        llama_cpp_ratio: our predicted speed over dense llama.cpp's, Mistral in bf16. kernels, models:
        everything measured, by precision and number of threads. num_processors_used: processor time over
        time; far below 1, others had the machine, and figures are theirs too. What is null has its `why`.
    """
    bench, started = DecodeBench(plan), (time.perf_counter(), time.process_time())
    kernels = bench.kernels()
    mistral = bench.models(plan.mistral, ("bf16",))
    low_ranked = replace(plan.mistral, predictor_rank=plan.low_rank)
    mistral_low_rank = bench.models(low_ranked, ("bf16",))
    mixtral = bench.models(plan.mixtral, ("bf16", "int4"))
    most = bench.threads[-1]
    seconds, processor_seconds = time.perf_counter() - started[0], time.process_time() - started[1]
    report = {
        "memory_bandwidth_bytes_per_second": bench.bandwidth[most],
        "kernel": {
            ratio: {key: found[key] for key in ("ratio", "share_of_byte_ratio")}
            for ratio, found in kernels["bf16"][most].items()
            if ratio not in ("dense", "best_dense")
        },
        "mistral": _summary(plan.mistral, mistral["bf16"][most])
        | {"low_rank": _summary(low_ranked, mistral_low_rank["bf16"][most])},
        "mixtral": _summary(plan.mixtral, mixtral["bf16"][most])
        | {"int4": _summary(plan.mixtral, mixtral["int4"][most])},
        "llama_cpp_ratio": mistral["bf16"][most]["llama_cpp_ratio"],
        "bandwidth": bench.bandwidth,
        "kernels": kernels,
        "models": {
            "mistral": mistral,
            f"mistral, rank {plan.low_rank}": mistral_low_rank,
            "mixtral": mixtral,
        },
        "machine": describe_machine(),
        "num_threads": most,
        "num_rounds": plan.num_rounds,
        "num_processors_used": processor_seconds / seconds,
    }
    return report if bench.why is None else report | {"why": f"llama_cpp_ratio: {bench.why}"}


def describe_machine() -> str:
    """Returns the processor, torch's instruction set, and whether the kernels are compiled."""
    names = Path("/proc/cpuinfo")
    lines = names.read_text(encoding="utf-8").splitlines() if names.is_file() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    kernels = "C++ kernels" if has_backend("cpu") else "no C++ kernels: the slow reference"
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{model or platform.processor()}, {capability}, {kernels}, torch {torch.__version__}"


def _summary(shape: Shape, measured: dict[str, Any]) -> dict[str, Any]:
    return {
        **{mode: measured["ways"][mode]["ratio"] for mode in ("exact", "predicted")},
        **{f"{mode}_byte_ratio": measured["ways"][mode]["byte_ratio"] for mode in ("exact", "predicted")},
        "predictor_rank": shape.predictor_rank,
        "predictor_dtype": "int8",
        "active_ratio": shape.active_ratio,
        "gate_open_ratio": shape.gate_open_ratio,
        "best_dense": measured["best_dense"],
        "num_measured_layers": shape.num_measured_layers,
        "derived": f"{shape.num_layers} layers and the output projection",
        "llama_cpp_ratio": measured["llama_cpp_ratio"],
    }
