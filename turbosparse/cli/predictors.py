"""`predictors`: activation predictors for a model folder that has none."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from turbosparse.cli.common import JsonOption, SetOption, console, finish, shown_progress
from turbosparse.config import PredictorConfig, read_overrides, validate

app = typer.Typer()

DEFAULT_PARAMETER_RATIO = 0.15
SHOWN = {
    "recall": "recall",
    "precision": "precision",
    "predicted_active_ratio": "predicted active",
    "true_active_ratio": "truly active",
}


@app.command()
def predictors(
    model: Annotated[str, typer.Argument(help="Model folder: dReLU, Mistral or Mixtral.")],
    dst: Annotated[Path, typer.Argument(help="Folder to write; new or empty.")],
    text: Annotated[
        Path | None, typer.Option(help="Text file, or JSONL with a text field; none: sampled from the model.")
    ] = None,
    assignments: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fit activation predictors to a model that stays as it is, and choose their thresholds.

    --set takes the fields of a preset's finetune.predictor block: rank=64, parameter_ratio=0.2,
    threshold.min_recall=0.98, post_hoc.num_tokens=100000, ….
    """
    tree = read_overrides(None, assignments or [])
    if not {"rank", "parameter_ratio"} & tree.keys():
        tree["parameter_ratio"] = DEFAULT_PARAMETER_RATIO
    config = validate(PredictorConfig, {"method": "post_hoc", **tree}, source="the command line")
    from turbosparse.fitting import fit_folder  # noqa: PLC0415 - transformers takes seconds

    with shown_progress() as listener:
        report = fit_folder(model, dst, text, config, listener.on_progress)
    _show(report)
    finish(report, as_json)


def _show(report: dict[str, Any]) -> None:
    table = Table(
        "layer", "rank", "threshold", *(name.replace("_ratio", "").replace("_", " ") for name in SHOWN)
    )
    for layer, rank, limit in zip(
        report["layers"], report["predictor_ranks"], report["thresholds"], strict=True
    ):
        ratios = [f"{layer[name]:.1%}" for name in SHOWN]
        table.add_row(str(layer["layer"]), str(rank), f"{limit:.3f}", *ratios)
    table.add_row("mean", "", "", *(f"{report[name]:.1%}" for name in SHOWN))
    console.print(table)
    console.print(
        f"perplexity exact {report['perplexity_exact']:.3f}, with predictors "
        f"{report['perplexity_predicted']:.3f} ({report['perplexity_ratio']:.4f} times)"
    )
