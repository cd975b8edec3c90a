"""Commands on model folders."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from turbosparse.cli.common import JsonOption, console, finish
from turbosparse.config import Activation

app = typer.Typer()


@app.command()
def convert(
    src: Annotated[str, typer.Argument(help="Hugging Face SwiGLU folder: Llama, Mistral or Mixtral.")],
    dst: Annotated[str, typer.Argument(help="Folder to write; new or empty.")],
    activation: Annotated[Activation, typer.Option(help="Activation afterwards.")] = "drelu",
    as_json: JsonOption = False,
) -> None:
    """Make a SwiGLU model dReLU; every weight stays bit for bit."""
    from turbosparse.commands import convert_folder  # noqa: PLC0415 - transformers takes seconds

    finish(convert_folder(src, Path(dst), activation), as_json)


@app.command()
def sparsity(
    model: Annotated[str, typer.Argument(help="Llama, Mistral, Mixtral, Qwen-MoE, DeepSeek-V2/V3 folder.")],
    text: Annotated[Path, typer.Option(help="Text file, or JSONL with a text field.")],
    num_tokens: Annotated[int, typer.Option(min=2, help="Tokens to measure at the most.")] = 65_536,
    plots: Annotated[Path | None, typer.Option(help="Folder for figures and activation counts.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure zero activations by layer and expert, and the parameters that a token activates."""
    from turbosparse.commands import measure_folder  # noqa: PLC0415 - transformers takes seconds

    report = measure_folder(model, text, num_tokens, plots)
    table = Table("layer", "zero", "near zero", "hot neurons")
    rows = zip(report["layers"], report["near_zero_layers"], report["hot_neuron_layers"], strict=True)
    for layer, (zero, near_zero, hot) in enumerate(rows):
        table.add_row(str(layer), f"{zero:.2%}", f"{near_zero:.2%}", "–" if hot is None else f"{hot:.2%}")
    zero, near_zero = report["zero_activation_ratio"], report["near_zero_activation_ratio"]
    table.add_row("mean", f"{zero:.2%}", f"{near_zero:.2%}", "")
    console.print(table)
    parameters = report["activated_parameters"]
    console.print(", ".join(f"{name} {number:,}" for name, number in parameters.items()))
    finish(report, as_json)


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="Llama, Mistral, Mixtral or TurboSparse folder.")],
    tasks: Annotated[str, typer.Option(help="Comma-separated lm-evaluation-harness tasks.")],
    data: Annotated[
        str | None,
        typer.Option(help="Folder of items: held_back.jsonl for the local tasks, or piqa_val.jsonl, …."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Items per task.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Evaluate a model with lm-evaluation-harness."""
    from turbosparse.commands import evaluate_folder  # noqa: PLC0415 - transformers takes seconds

    report = evaluate_folder(model, tasks.split(","), data, limit)
    table = Table("task", "items", "metric", "value")
    for task, metrics in report["results"].items():
        for metric, value in metrics.items():
            table.add_row(task, str(report["num_items"][task]), metric, f"{value:.4f}")
    console.print(table)
    finish(report, as_json)


@app.command()
def generate(
    model: Annotated[str, typer.Argument(help="Model folder.")],
    prompt: Annotated[str, typer.Option(help="Text to continue.")],
    mode: Annotated[Literal["dense", "exact", "predicted"], typer.Option(help="How FFNs decode.")] = "dense",
    num_tokens: Annotated[int, typer.Option(min=1, help="Tokens to decode at the most.")] = 64,
    chat: Annotated[bool, typer.Option(help="Wrap the prompt in the chat template.")] = False,
    temperature: Annotated[float, typer.Option(help="0: always the likeliest token.")] = 0.0,
    top_k: Annotated[int | None, typer.Option(help="Draw among so many likeliest tokens.")] = None,
    top_p: Annotated[float, typer.Option(help="Draw among the likeliest, up to this probability.")] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed draws the same text.")] = 0,
    quantize: Annotated[
        Literal["none", "int8", "int4"], typer.Option(help="Weights of new tokens; the prompt's keep theirs.")
    ] = "none",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; default: torch's choice.")] = None,
) -> None:
    """Decode after a prompt; text comes as it is decoded, speed and bytes read go to standard error."""
    from turbosparse.commands import Generation, generate_text  # noqa: PLC0415 - transformers takes seconds
    from turbosparse.inference.choosing import Sampling  # noqa: PLC0415

    sampling = Sampling(temperature, top_k, top_p, seed)
    generate_text(model, prompt, Generation(mode, num_tokens, chat, sampling, quantize, threads))


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    dst: Annotated[Path, typer.Argument(help="Folder to write; new or empty.")],
    format: Annotated[
        Literal["hf", "powerinfer", "powerinfer-dense", "powerinfer-predictors"],
        typer.Option(help="hf; a PowerInfer GGUF, sparse or dense; or what PowerInfer's converter reads."),
    ] = "hf",
    layout: Annotated[
        Literal["native", "released"],
        typer.Option(help="native: with our modelling code; released: as PowerInfer's TurboSparse models."),
    ] = "native",
    quantize: Annotated[str, typer.Option(help="Of a GGUF's matrices: f16 or q4_0.")] = "f16",
    statistics: Annotated[Path | None, typer.Option(help="Text to count neurons' activations on.")] = None,
    num_tokens: Annotated[int, typer.Option(min=2, help="Tokens of it at the most.")] = 65_536,
    vram_gib: Annotated[float | None, typer.Option(help="GPU memory to divide neurons for.")] = None,
    context_tokens: Annotated[int, typer.Option(min=1, help="Longest context on that GPU.")] = 4_096,
    engine: Annotated[Path | None, typer.Option(help="A built PowerInfer that checks the file.")] = None,
    engine_text: Annotated[Path | None, typer.Option(help="Text that it is checked on.")] = None,
    upload: Annotated[str | None, typer.Option(help="hf://OWNER/NAME or s3://BUCKET/PREFIX.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a model folder for other programs: the Hugging Face stack, or PowerInfer."""
    from turbosparse.export import folder, powerinfer  # noqa: PLC0415 - transformers takes seconds

    options = powerinfer.PowerInferOptions(
        powerinfer.check_quantization(quantize),
        statistics=statistics,
        num_statistics_tokens=num_tokens,
        vram_gib=vram_gib,
        context_tokens=context_tokens,
        engine=engine,
        engine_text=engine_text,
    )
    found = folder.export_folder(folder.ExportRequest(model, dst, format, layout, options, upload))
    for warning in found.get("warnings", []):
        console.print(f"warning: {warning}", markup=False)
    if "perplexity" in found:
        table = Table("perplexity", "value")
        for name, value in found["perplexity"].items():
            table.add_row(name, f"{value:.4f}" if isinstance(value, float) else f"{value:,}")
        console.print(table)
    finish(found, as_json)
