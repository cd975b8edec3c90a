"""What every reproduction takes, gives and writes."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from turbosparse.analysis.loading import load_for_analysis
from turbosparse.analysis.statistics import Analysis, AnalysisPlan, analyse
from turbosparse.analysis.text import iterate_windows, joined_windows, read_texts
from turbosparse.config import Placement
from turbosparse.config.resolve import merge
from turbosparse.data.tokenizer import load_tokenizer
from turbosparse.errors import DataError
from turbosparse.model.device import on_best_device
from turbosparse.progress import Listener
from turbosparse.stages import Run, open_run

WINDOW_TOKENS = 1_024

Scale = Literal["tiny", "300m", "7b"]
PRESETS: dict[Scale, str] = {"tiny": "tiny", "300m": "300m", "7b": "mistral-7b"}


@dataclass(frozen=True)
class Request:
    """What to measure, on what, and where to put it."""

    out: Path
    """Folder for the files."""
    models: Sequence[str] = ()
    """Model folders, each `DIR` or `LABEL=DIR`."""
    text: Path | None = None
    """Text file, or JSONL with a text field."""
    num_tokens: int = 65_536
    """Tokens measured per model at the most."""
    tasks: Sequence[str] = ()
    """Evaluation tasks, for Figure 5 (a) and Table 10."""
    data: Path | None = None
    """Data folder of the tasks."""
    limit: int | None = None
    """Items per task at the most."""
    scale: Scale = "tiny"
    """Preset of what is trained or prepared here (see PRESETS)."""
    dry_run: bool = False
    """Whether the preset's dry_run block applies; `tiny` always runs with its own."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Changes to the preset."""
    placement: Placement = field(default_factory=Placement)
    """Root, source, corpora and ranks of what is trained or prepared here."""
    moe_source: str | None = None
    """Hugging Face folder of the SwiGLU mixture of experts, for what compares it with the dense model."""
    listener: Listener = field(default_factory=Listener)
    """Hears of the stages' progress."""


@dataclass(frozen=True)
class Reproduction:
    """A table or figure as it was measured here."""

    name: str
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    """Ours and the paper's, one list per row under `header`."""
    measured: dict[str, Any]
    """Everything measured, for JSON."""
    paper: dict[str, Any]
    """The paper's figures."""
    notes: Sequence[str]
    """How it was counted, and what is missing."""
    plots: Sequence[Path] = field(default=())
    tables: Sequence[Path] = field(default=())
    """CSV files of what the plots show."""
    headline: Mapping[str, Any] = field(default_factory=dict)
    """What stands at the top of the JSON, beside `measured`."""
    differs: str = ""
    """What differs from the paper: scale, data, hardware."""


@dataclass(frozen=True)
class LoadedModel:
    """A model of a request, in memory."""

    label: str
    activation: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    window_tokens: int


def open_scaled(request: Request, overrides: Mapping[str, Any]) -> Run:
    """Resolves the run of the request's scale, its model starting from random weights.

    Args:
        request: scale, changes to the preset, placement.
        overrides: what the reproduction itself prescribes, over the request's changes.

    Raises:
        TurboSparseError: Anything about the run can't work.
    """
    from_random = merge({"convert": {"source": "random", "base": None}}, dict(overrides))
    tree = merge(dict(request.overrides), from_random)
    # A source would be converted: these models have none.
    placement = request.placement.model_copy(update={"source": None})
    return open_run(PRESETS[request.scale], tree, is_dry(request), placement)


def is_dry(request: Request) -> bool:
    """Returns whether the preset's dry_run block applies."""
    return request.dry_run or request.scale == "tiny"


def loaded_models(request: Request) -> Iterator[LoadedModel]:
    """Yields the request's models, one in memory at a time.

    Raises:
        DataError: No model is given, or two have the same label.
        ModelError: A folder that can't be analysed.
    """
    for label, folder in labelled_folders(request.models).items():
        model = on_best_device(load_for_analysis(folder))
        activation = getattr(model.config, "activation", None) or f"{model.config.hidden_act} gated"
        window = min(WINDOW_TOKENS, model.config.max_position_embeddings)
        yield LoadedModel(label, activation, model, load_tokenizer(folder), window)


def labelled_folders(models: Sequence[str]) -> dict[str, str]:
    """Returns model folders by label: what stands before `=`, or the folder's own name.

    Raises:
        DataError: No model is given, or two have the same label.
    """
    folders: dict[str, str] = {}
    for given in models:
        label, equals, folder = given.partition("=")
        if not equals:
            label, folder = Path(given).resolve().name, given
        if label in folders:
            raise DataError("--model", given, "labels that differ", "name them: --model LABEL=DIR")
        folders[label] = folder
    if not folders:
        raise DataError("--model", "nothing", "at least one model folder", "give --model DIR")
    return folders


def analysed_models(request: Request, plan: AnalysisPlan) -> Iterator[tuple[LoadedModel, Analysis]]:
    """Yields the request's models with what their FFNs did over the request's text."""
    text = required_text(request)
    for loaded in loaded_models(request):
        windows = iterate_windows(
            loaded.tokenizer, read_texts(text), loaded.window_tokens, request.num_tokens
        )
        yield loaded, analyse(loaded.model, windows, plan)


def perplexity_windows(request: Request, loaded: LoadedModel) -> list[Tensor]:
    """Returns the request's text as joined windows for a model's tokenizer."""
    texts = read_texts(required_text(request))
    return joined_windows(loaded.tokenizer, texts, loaded.window_tokens, request.num_tokens)


def required_text(request: Request) -> Path:
    """Returns the request's text file.

    Raises:
        DataError: There is none.
    """
    if request.text is None:
        raise DataError("--text", None, "a text file to measure on", "give --text FILE")
    return request.text


def write_reproduction(result: Reproduction, folder: Path) -> list[Path]:
    """Writes <name>.json and <name>.md to a folder; returns them, and the plots and tables that lie there."""
    folder.mkdir(parents=True, exist_ok=True)
    as_json = folder / f"{result.name}.json"
    as_json.write_text(json.dumps(as_record(result), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    as_markdown = folder / f"{result.name}.md"
    as_markdown.write_text(_markdown(result), encoding="utf-8")
    return [as_json, as_markdown, *result.plots, *result.tables]


def as_record(result: Reproduction) -> dict[str, Any]:
    """Returns what <name>.json holds."""
    return {
        **result.headline,
        "name": result.name,
        "title": result.title,
        "measured": result.measured,
        "paper": result.paper,
        "notes": list(result.notes),
        "differs": result.differs,
        "plots": [path.name for path in result.plots],
        "tables": [path.name for path in result.tables],
    }


def percent(ratio: float) -> str:
    """Returns a ratio as a table shows it."""
    return f"{ratio:.1%}"


def _markdown(result: Reproduction) -> str:
    table = [_row(result.header), _row(["---"] * len(result.header)), *map(_row, result.rows)]
    lines = [f"# {result.title}", "", *table, ""]
    lines += [f"- {note}" for note in result.notes]
    lines += ["", f"**What differs.** {result.differs}"] if result.differs else []
    for path in result.plots:
        lines += ["", f"![{path.stem}]({path.name})"]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[object]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"
