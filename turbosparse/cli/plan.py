"""`plan`: what a run will take, before anything is launched."""

from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from turbosparse.cli.common import (
    ConfigOption,
    JsonOption,
    MfuOption,
    PeakOption,
    PresetOption,
    SetOption,
    SourceOption,
    console,
    finish,
)
from turbosparse.config import Placement, read_overrides, resolve, validate

app = typer.Typer()

GIB = 2**30


@app.command()
def plan(
    preset: PresetOption = "300m",
    nodes: Annotated[int, typer.Option(min=1, help="Machines that train together.")] = 1,
    gpus_per_node: Annotated[int, typer.Option(min=1, help="GPUs, and training processes, of each.")] = 8,
    source: SourceOption = None,
    assignments: SetOption = None,
    config: ConfigOption = None,
    microbatch: Annotated[int | None, typer.Option(min=1, help="Sequences at once; none: what fits.")] = None,
    activation_checkpointing: Annotated[bool, typer.Option(help="Also where it is not needed.")] = False,
    gpu_memory_gib: Annotated[float, typer.Option(min=0.1, help="Memory of one GPU.")] = 80.0,
    reserve_gib: Annotated[float, typer.Option(min=0.0, help="Of it, for what is no tensor.")] = 6.0,
    gpu_peak_teraflops: PeakOption = 312.0,
    mfu: MfuOption = 0.45,
    precision: Annotated[Literal["bf16", "fp32"], typer.Option(help="bf16 on GPUs, fp32 on CPUs.")] = "bf16",
    storage_gb_per_second: Annotated[float, typer.Option(min=0.001, help="Writing of all ranks.")] = 2.0,
    node_failure_hours: Annotated[float, typer.Option(min=1.0, help="Mean time between failures.")] = 6_000.0,
    dry: Annotated[bool, typer.Option("--dry-run", help="Apply the preset's dry_run block.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Plan memory, hours, checkpoints and storage of a run's training stages, without any GPU.

    --json: preset, num_gpus, gpu_peak_teraflops, mfu_ratio, gpu_hours (all stages), stages.{base, pretrain,
    finetune}. Each stage has parameters {embeddings, attention, ffn, router, predictor, norm, total};
    largest_share_ratio (fullest rank over an even share); memory, bytes of the fullest rank {weights,
    gradients, optimizer, activations, logits, working, gathered, predictor, reused (subtracted), total},
    and step {sequence_length, microbatch_sequences, num_ranks, precision, activation_checkpointing, …},
    num_microbatches per optimizer step: null with a `why` where nothing fits; schedule {num_steps,
    num_tokens, flops_per_token, seconds_per_step, hours, gpu_hours}; storage {checkpoint_bytes,
    checkpoint_seconds, checkpoint_interval_steps, num_checkpoints, lost_ratio, expected_failures,
    tokens_read_bytes, model_read_bytes, checkpoints_written_bytes, checkpoints_kept_bytes,
    model_written_bytes}.

    6,000 hours between failures of a node is what 419 unexpected interruptions in 54 days on 16,384 GPUs
    come to (Llama 3's training, arXiv 2407.21783, Section 3.3.4).
    """
    placement = validate(
        Placement,
        {
            "source": source,
            "num_nodes": nodes,
            "num_ranks": gpus_per_node,
            "device_batch_size_sequences": microbatch,
            "training": {"activation_checkpointing": activation_checkpointing},
            "gpu_peak_teraflops": gpu_peak_teraflops,
            "expected_mfu_ratio": mfu,
        },
        source="the command line",
    )
    pipeline = resolve(preset, read_overrides(config, assignments or []), dry)
    from turbosparse.plan.plan import Hardware, plan_stages  # noqa: PLC0415 - transformers takes seconds
    from turbosparse.plan.storage import Reliability  # noqa: PLC0415

    reliability = Reliability(storage_gb_per_second * 1e9, node_failure_hours)
    hardware = Hardware(precision, gpu_memory_gib * GIB, reserve_gib * GIB, reliability)
    stages = {stage.name: stage.as_json() for stage in plan_stages(pipeline, placement, hardware)}
    report = {
        "preset": preset,
        "num_gpus": placement.num_ranks_total,
        "gpu_peak_teraflops": gpu_peak_teraflops,
        "mfu_ratio": mfu,
        "gpu_hours": sum(stage["schedule"]["gpu_hours"] for stage in stages.values()),
        "stages": stages,
    }
    _show(report)
    finish(report, as_json)


def _show(report: dict[str, Any]) -> None:
    stages = report["stages"]
    console.print(
        f"{report['preset']} on {report['num_gpus']} GPUs of {report['gpu_peak_teraflops']:g} TFLOP/s at "
        f"{report['mfu_ratio']:.0%} MFU: {report['gpu_hours']:,.4g} GPU-hours"
    )
    _print("parameters, 10^6", stages, lambda stage: _scaled(stage["parameters"], 1e6))
    _print("memory of a GPU, GiB", stages, _memory_rows)
    _print("time", stages, _time_rows)
    _print("storage", stages, _storage_rows)
    for name, stage in stages.items():
        if stage["why"]:
            console.print(f"[yellow]{name}:[/yellow] {stage['why']}")
        if stage["largest_share_ratio"] > 1.1:
            console.print(
                f"[yellow]{name}:[/yellow] the fullest of {report['num_gpus']} GPUs holds "
                f"{stage['largest_share_ratio']:.2f} times its share: a number that divides the "
                "intermediate size shards evenly"
            )


def _print(title: str, stages: dict[str, Any], rows_of: Any) -> None:
    columns = {name: rows_of(stage) for name, stage in stages.items()}
    table = Table(title, *columns)
    for row in next(iter(columns.values())):
        table.add_row(row, *(column[row] for column in columns.values()))
    console.print(table)


def _scaled(values: dict[str, float] | None, unit: float) -> dict[str, str]:
    return {name: f"{value / unit:,.4g}" for name, value in (values or {}).items()}


def _memory_rows(stage: dict[str, Any]) -> dict[str, str]:
    step, memory = stage["step"], stage["memory"]
    if memory is None:
        parts = ("weights", "gradients", "optimizer", "activations", "logits", "working", "gathered")
        return dict.fromkeys((*parts, "reused", "predictor", "total", "microbatch", "checkpointing"), "–")
    return _scaled(memory, GIB) | {
        "microbatch": f"{step['microbatch_sequences']} x {step['sequence_length']:,} tokens",
        "checkpointing": "yes" if step["activation_checkpointing"] else "no",
    }


def _time_rows(stage: dict[str, Any]) -> dict[str, str]:
    time = stage["schedule"]
    return {
        "steps": f"{time['num_steps']:,}",
        "tokens, 10^9": f"{time['num_tokens'] / 1e9:,.4g}",
        "GFLOPs per token": f"{time['flops_per_token'] / 1e9:,.4g}",
        "seconds per step": f"{time['seconds_per_step']:,.3g}",
        "hours": f"{time['hours']:,.4g}",
        "GPU-hours": f"{time['gpu_hours']:,.4g}",
    }


def _storage_rows(stage: dict[str, Any]) -> dict[str, str]:
    storage = stage["storage"]
    gigabytes = {name: value for name, value in storage.items() if name.endswith("_bytes")}
    rows = {
        "checkpoint every": f"{storage['checkpoint_interval_steps']:,} steps",
        "seconds each": f"{storage['checkpoint_seconds']:,.3g}",
        "failures expected": f"{storage['expected_failures']:.2g}",
        "time lost to both": f"{storage['lost_ratio']:.2%}",
    }
    return rows | {
        f"{name[:-6].replace('_', ' ')}, GB": f"{value / 1e9:,.4g}" for name, value in gigabytes.items()
    }
