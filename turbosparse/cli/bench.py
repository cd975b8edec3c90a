"""`bench`: measured ratios, side by side in one run."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from turbosparse.cli.common import CorporaOption, JsonOption, TokenizerOption, console, finish

app = typer.Typer()
bench_app = typer.Typer(no_args_is_help=True, help="Measured ratios, side by side in one run.")
app.add_typer(bench_app, name="bench")


@bench_app.command("data")
def bench_data(
    corpora: CorporaOption = None,
    tokenizer: TokenizerOption = None,
    megabytes: Annotated[int, typer.Option(min=1, help="Text to work on, in 10^6 bytes.")] = 64,
    as_json: JsonOption = False,
) -> None:
    """Measure tokenizing against the common way, its scaling and memory, and reading back."""
    from turbosparse.bench.data import measure_data  # noqa: PLC0415 - torch takes seconds

    _show(measure_data(corpora, tokenizer, megabytes * 1_000_000), as_json)


@bench_app.command("train")
def bench_train(
    hidden_size: Annotated[int, typer.Option(min=64, help="Width of the residual stream.")] = 1_024,
    intermediate_size: Annotated[int, typer.Option(min=16, help="FFN neurons.")] = 2_816,
    num_layers: Annotated[int, typer.Option(min=1, help="Decoder layers; 24 make the 300m model.")] = 24,
    vocab_size: Annotated[int, typer.Option(min=16, help="Entries of the vocabulary.")] = 32_000,
    sequence_length: Annotated[int, typer.Option(min=16, help="Tokens per sequence.")] = 512,
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences per step.")] = 2,
    num_rounds: Annotated[int, typer.Option(min=1, help="Turns of each way; medians are reported.")] = 5,
    repetitions: Annotated[int, typer.Option(min=1, help="Rounds of the FFNs by themselves.")] = 9,
    as_json: JsonOption = False,
) -> None:
    """Measure our training step against a bare one and a plain loop, and the dReLU FFN against SwiGLU's."""
    from turbosparse.bench.drelu import measure_drelu  # noqa: PLC0415 - torch takes seconds
    from turbosparse.bench.training import Shape, measure_training  # noqa: PLC0415 - Composer takes more

    heads = hidden_size // 64
    widths = (hidden_size, intermediate_size)
    shape = Shape(*widths, num_layers, heads, vocab_size, sequence_length, batch_size)
    ffn = measure_drelu(*widths, shape.step_tokens, repetitions)
    ratios = ("drelu_vs_swiglu_time", "drelu_vs_swiglu_memory")
    _show(measure_training(shape, num_rounds) | {name: ffn[name] for name in ratios} | {"ffn": ffn}, as_json)


@bench_app.command("predictors")
def bench_predictors(
    hidden_size: Annotated[int, typer.Option(min=64, help="Width of the residual stream.")] = 1_024,
    intermediate_size: Annotated[int, typer.Option(min=16, help="FFN neurons.")] = 2_816,
    num_layers: Annotated[int, typer.Option(min=1, help="Decoder layers.")] = 2,
    rank: Annotated[int, typer.Option(min=1, help="Width of the predictors.")] = 256,
    num_tokens: Annotated[int, typer.Option(min=2, help="Tokens in one step.")] = 1_024,
    repetitions: Annotated[int, typer.Option(min=1, help="Rounds; medians are reported.")] = 5,
    as_json: JsonOption = False,
) -> None:
    """Measure what training predictors beside a model adds to a training step."""
    from turbosparse.bench.predictors import measure_predictor_cost  # noqa: PLC0415 - torch takes seconds

    sizes = hidden_size, intermediate_size, num_layers, rank
    _show(measure_predictor_cost(*sizes, num_tokens, repetitions), as_json)


@bench_app.command("decode")
def bench_decode(
    num_rounds: Annotated[int, typer.Option(min=1, help="Rounds; medians are reported.")] = 9,
    peer: Annotated[bool, typer.Option(help="Measure llama.cpp too, where it is installed.")] = True,
    out: Annotated[Path | None, typer.Option(help="Folder for a table and a plot.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure sparse decoding over dense at Mistral-7B's and Mixtral-8x7B's widths; some 6 GB, minutes."""
    from turbosparse.bench.decode import DecodePlan, measure_decoding  # noqa: PLC0415 - torch takes seconds
    from turbosparse.bench.decode_report import HEADER, decoding_rows, write_decoding  # noqa: PLC0415

    report = measure_decoding(DecodePlan(num_rounds=num_rounds, with_peer=peer))
    table = Table(*HEADER[1:])
    for row in decoding_rows(report):
        table.add_row(*row[1:])
    console.print(table)
    for path in write_decoding(report, out) if out else []:
        console.print(str(path))
    finish(report, as_json)


@bench_app.command("evaluate")
def bench_evaluate(
    model: Annotated[str, typer.Argument(help="Model folder.")],
    tasks: Annotated[str, typer.Option(help="Comma-separated tasks, NAME or NAME:SHOTS.")],
    data: Annotated[Path | None, typer.Option(help="Folder of items; none: the hub.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Items per task.")] = 32,
    num_rounds: Annotated[int, typer.Option(min=1, help="Rounds; medians are reported.")] = 3,
    as_json: JsonOption = False,
) -> None:
    """Measure evaluation against lm-evaluation-harness's own model, on the same requests by turns."""
    from turbosparse.bench.evaluation import measure_evaluation  # noqa: PLC0415 - transformers takes seconds

    report = measure_evaluation(model, tasks.split(","), data, limit, num_rounds)
    table = Table("task", "requests", "ours, s", "harness's fastest, s", "ratio")
    for task, found in report["tasks"].items():
        theirs = found["seconds"][found["fastest_harness"]]
        seconds = f"{found['seconds']['turbosparse']:.2f}", f"{theirs:.2f} ({found['fastest_harness']})"
        table.add_row(task, str(found["num_requests"]), *seconds, f"{found['ratio']:.2f}")
    table.add_row("all", "", "", "", f"{report['ratio']:.2f}")
    console.print(table)
    finish(report, as_json)


def _show(report: dict[str, object], as_json: bool) -> None:
    table = Table("measured", "value")
    for name, value in report.items():
        table.add_row(name, f"{value:,.4g}" if isinstance(value, float) else str(value))
    console.print(table)
    finish(report, as_json)
