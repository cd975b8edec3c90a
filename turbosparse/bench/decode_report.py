"""The decoding benchmark as a table and a figure."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

PAPER_TABLE_7 = (
    ("PC-2080Ti", "Mistral-7B", "FP16", 9.94, 4.78, 2.08),
    ("PC-2080Ti", "Mixtral-47B", "INT4", 11.98, 4.26, 2.81),
    ("PC-Laptop", "Mistral-7B", "FP16", 8.71, 4.13, 2.11),
    ("PC-Laptop", "Mixtral-47B", "INT4", 16.1, 6.91, 2.32),
)
"""Setting, model, precision, tokens per second of PowerInfer and of llama.cpp, speedup."""
HEADER = ("machine", "model", "weights", "threads", "way", "tokens/s", "over our best dense", "bytes allow")
_WAYS = ("llama.cpp", "F.linear", "dense", "exact", "predicted")


def decoding_rows(report: dict[str, Any]) -> Iterator[list[str]]:
    """Yields what was measured, a row under HEADER for each model, precision, thread count and way."""
    for model, precisions in report["models"].items():
        for precision, by_threads in precisions.items():
            for threads, found in by_threads.items():
                for way in (way for way in _WAYS if way in found["ways"]):
                    figures = found["ways"][way]
                    speed = f"{1 / figures['seconds_per_token']:.2f}"
                    ratios = f"{figures['ratio']:.2f}×", f"{figures['byte_ratio']:.2f}×"
                    yield ["here", model, precision, str(threads), way, speed, *ratios]


def paper_rows() -> Iterator[list[str]]:
    """Yields the paper's Table 7 as rows under HEADER; its speedups are over llama.cpp."""
    for setting, model, precision, sparse, dense, ratio in PAPER_TABLE_7:
        yield [f"paper, {setting}", model, precision, "all", "llama.cpp", f"{dense}", "", ""]
        yield [f"paper, {setting}", model, precision, "all", "PowerInfer", f"{sparse}", f"{ratio:.2f}×", ""]


def decoding_notes(report: dict[str, Any]) -> list[str]:
    """Returns how the figures were found, and what is missing."""
    mistral, mixtral = report["mistral"], report["mixtral"]
    bandwidth = report["memory_bandwidth_bytes_per_second"] / 1e9
    notes = [
        f"{report['machine']}; {report['num_threads']} threads, which read memory at {bandwidth:.1f} GB/s.",
        f"Processors that the run was given, on average: {report['num_processors_used']:.2f}.",
        f"Whole models are derived: {mistral['num_measured_layers']} of Mistral's layers and "
        f"{mixtral['num_measured_layers']} of Mixtral's were measured, 4,096 wide, with attention over 128 "
        "tokens; the rest are as many more of these and one output projection.",
        *(_model_note(name, report[name]) for name in ("mistral", "mixtral")),
        "The paper's speedups are PowerInfer's with the sparse model over llama.cpp with the dense one.",
    ]
    return notes + ([f"Not measured: {report['why']}."] if "why" in report else [])


def _model_note(name: str, figures: dict[str, Any]) -> str:
    return (
        f"{name}: {figures['active_ratio']:.0%} of neurons active, {figures['gate_open_ratio']:.0%} with an "
        f"open gate; predictors of rank {figures['predictor_rank']:,} in {figures['predictor_dtype']}."
    )


def write_decoding(report: dict[str, Any], folder: Path) -> list[Path]:
    """Writes decode.md and decode.png to a folder and returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [HEADER, ["---"] * len(HEADER), *decoding_rows(report), *paper_rows()]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    kernel = "\n".join("| " + " | ".join(line) + " |" for line in _kernel_lines(report))
    notes = "\n".join(f"- {note}" for note in decoding_notes(report))
    markdown, plot = folder / "decode.md", folder / "decode.png"
    text = f"# Decoding, batch 1\n\n{table}\n\n{notes}\n\n## One FFN\n\n{kernel}\n\n![decode](decode.png)\n"
    markdown.write_text(text, encoding="utf-8")
    plot_decoding(report, plot)
    return [markdown, plot]


def plot_decoding(report: dict[str, Any], path: Path) -> None:
    """Draws speeds over the best dense way to a PNG: of one FFN by active ratio, and of whole models."""
    figure, (kernel_axes, model_axes) = plt.subplots(1, 2, figsize=(11, 4.5))
    for threads, found in report["kernels"]["bf16"].items():
        ratios = sorted(float(ratio) for ratio in found if ratio not in ("dense", "best_dense"))
        percents = [100 * ratio for ratio in ratios]
        speeds = [found[str(ratio)]["ratio"] for ratio in ratios]
        kernel_axes.plot(percents, speeds, "o-", label=f"{threads} thread{'s' if threads > 1 else ''}")
    kernel_axes.plot(percents, [100 / percent for percent in percents], "k:", label="bytes allow")
    kernel_axes.set_xlabel("active neurons, %")
    kernel_axes.set_ylabel("speed over our best dense FFN")
    kernel_axes.set_title("One FFN, bf16")
    kernel_axes.legend()
    bars = list(_bars(report))
    model_axes.barh([label for label, _, _ in bars], [ratio for _, ratio, _ in bars])
    for row, (_, ratio, allowed) in enumerate(bars):
        model_axes.text(ratio, row, f" {ratio:.2f}× of {allowed:.2f}×", va="center", fontsize=8)
    model_axes.margins(x=0.3)
    model_axes.set_xlabel("speed over our best dense decoder (of what bytes allow)")
    model_axes.set_title(f"Whole models, derived; {report['num_threads']} threads")
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _bars(report: dict[str, Any]) -> Iterator[tuple[str, float, float]]:
    for model, precisions in report["models"].items():
        for precision, by_threads in precisions.items():
            ways = by_threads[report["num_threads"]]["ways"]
            for way in ("exact", "predicted"):
                yield f"{model} {precision}\n{way}", ways[way]["ratio"], ways[way]["byte_ratio"]


def _kernel_lines(report: dict[str, Any]) -> Iterator[list[str]]:
    yield ["weights", "threads", "active", "over best dense", "share of the byte ratio", "of the bandwidth"]
    yield ["---"] * 6
    for precision, by_threads in report["kernels"].items():
        for threads, found in by_threads.items():
            dense = found["dense"][found["best_dense"]]["bandwidth_ratio"]
            yield [precision, str(threads), f"all ({found['best_dense']})", "1", "", f"{dense:.0%}"]
            for ratio in (ratio for ratio in found if ratio not in ("dense", "best_dense")):
                figures = found[ratio]
                shares = f"{figures['share_of_byte_ratio']:.0%}", f"{figures['bandwidth_ratio']:.0%}"
                yield [precision, str(threads), f"{float(ratio):.0%}", f"{figures['ratio']:.2f}×", *shares]
