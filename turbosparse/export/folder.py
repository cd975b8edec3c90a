"""A model folder exported in any format: what `turbosparse export` does."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from turbosparse.errors import ConfigError
from turbosparse.export.card import model_card
from turbosparse.export.huggingface import Layout, check_target, export_huggingface
from turbosparse.export.lineage import lineage_of
from turbosparse.export.powerinfer.export import PowerInferOptions, export_powerinfer
from turbosparse.export.powerinfer.model import DENSE_FILE, write_model, write_predictors
from turbosparse.export.upload import check_destination, upload_folder
from turbosparse.model.folder import open_folder
from turbosparse.model.rewrite import whole_folder

Format = Literal["hf", "powerinfer", "powerinfer-dense", "powerinfer-predictors"]


@dataclass(frozen=True)
class ExportRequest:
    """What is to be written."""

    source: Path
    target: Path
    format: Format = "hf"
    layout: Layout = "native"
    powerinfer: PowerInferOptions = field(default_factory=PowerInferOptions)
    upload: str | None = None
    """Where the folder goes afterwards: hf://OWNER/NAME, or a URI that fsspec writes to."""


def export_folder(request: ExportRequest) -> dict[str, Any]:
    """Writes a model folder for other programs, whole or not at all, and uploads it if asked to.

    Raises:
        TurboSparseError: The model, the target or the destination can't be used; nothing was written.
    """
    _check_asked_for(request)
    check_target(request.target)
    if request.upload is not None:
        check_destination(request.upload)
    found: dict[str, Any] = {"model": str(request.target), "format": request.format}
    found |= _write(request)
    if request.upload is not None:
        upload_folder(request.target, request.upload)
        found["uploaded"] = request.upload
    return found


def _write(request: ExportRequest) -> dict[str, Any]:
    source, target = request.source, request.target
    quantization = request.powerinfer.quantization
    match request.format:
        case "hf":
            config, _ = open_folder(source)
            card = model_card(config, lineage_of(source), is_released=request.layout == "released")
            export_huggingface(source, target, card, request.layout)
            return {"layout": request.layout}
        case "powerinfer":
            return export_powerinfer(source, target, request.powerinfer)
        case "powerinfer-dense":
            with whole_folder(target) as folder:
                warnings = write_model(source, folder, quantization, is_sparse=False)
            return {"file": str(target / DENSE_FILE), "quantization": quantization, "warnings": warnings}
        case "powerinfer-predictors":
            with whole_folder(target) as folder:
                return {"warnings": write_predictors(source, folder)}


def _check_asked_for(request: ExportRequest) -> None:
    """Refuses options that the format would ignore.

    Raises:
        ConfigError: Names the option.
    """
    options = request.powerinfer
    only_sparse = {
        "--statistics": options.statistics,
        "--engine": options.engine,
        "--vram-gib": options.vram_gib,
    }
    given = [name for name, value in only_sparse.items() if value is not None]
    if given and request.format != "powerinfer":
        raise ConfigError(given[0], request.format, "--format powerinfer beside it", "change the format")
    if request.layout != "native" and request.format != "hf":
        raise ConfigError("--layout", request.layout, "--format hf beside it", "leave --layout out")
