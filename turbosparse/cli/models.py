"""Commands on model folders."""

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from turbosparse.cli.common import JsonOption, console, finish, shown_progress
from turbosparse.cli.evaluation import evaluation_tables
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
    tasks: Annotated[
        str, typer.Option(help="Suites (openllm, commonsense, table10, quick) and tasks, NAME or NAME:SHOTS.")
    ],
    data: Annotated[
        Path | None, typer.Option(help="Folder of items (piqa_val.jsonl, …, held_back.jsonl); none: the hub.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Items per task.")] = None,
    num_fewshot: Annotated[
        int | None, typer.Option(min=0, help="Examples per prompt; none: each task's own number.")
    ] = None,
    mode: Annotated[
        Literal["dense", "exact", "predicted"],
        typer.Option(help="exact: generates sparsely; predicted: only neurons that the predictors expect."),
    ] = "dense",
    topk_ratio: Annotated[
        float | None, typer.Option(help="Keep so large a share of each token's activations, the largest.")
    ] = None,
    batch_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens per forward pass.")] = None,
    num_ranks: Annotated[int, typer.Option(min=1, help="Processes that share the items.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Folder for results.json and items.jsonl.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Evaluate a model with lm-evaluation-harness's tasks; its figures are those of lm_eval itself."""
    # Read when tqdm is first imported: the harness draws a bar for every one of MMLU's subjects.
    os.environ.setdefault("TQDM_DISABLE", "1")
    from turbosparse.evaluation import ranks, suites  # noqa: PLC0415 - torch takes seconds

    suites.plan_tasks(tasks.split(","), num_fewshot)
    if num_ranks > 1 and not ranks.is_one_of_many():
        raise typer.Exit(ranks.start_ranks(sys.argv[1:], num_ranks))
    from turbosparse.evaluation.folder import evaluate_folder  # noqa: PLC0415 - transformers takes more
    from turbosparse.evaluation.harness import EvaluationOptions  # noqa: PLC0415
    from turbosparse.evaluation.modes import Computation  # noqa: PLC0415
    from turbosparse.evaluation.records import write_result  # noqa: PLC0415

    computation = Computation(mode, topk_ratio)
    options = EvaluationOptions(num_fewshot, computation, max_batch_tokens=batch_tokens)
    with shown_progress() as listener:
        found = evaluate_folder(model, tasks.split(","), data, limit, options, listener.on_progress)
    if ranks.is_first_rank():
        console.print(*evaluation_tables(found), sep="\n")
        for path in write_result(found, out) if out else []:
            console.print(str(path))
        finish({"model": model, **found.summary()}, as_json)


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
