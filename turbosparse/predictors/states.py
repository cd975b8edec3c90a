"""Hidden states and labels on disk: what predictors are fitted to, within a stated number of bytes."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from turbosparse.config import PredictorConfig
from turbosparse.errors import ConfigError
from turbosparse.model.observe import FFNActivations, observe
from turbosparse.predictors.loss import active_labels

INDEX_NAME = "states.json"
"""Written when a pass has ended: states without it are from a pass that was cut off."""


@dataclass(frozen=True, order=True)
class Unit:
    """One FFN, or one expert."""

    layer: int
    expert: int | None = None
    """None in a dense model."""

    @property
    def name(self) -> str:
        """What its files are called."""
        return f"layer-{self.layer:03}" + ("" if self.expert is None else f".expert-{self.expert:03}")


@dataclass(frozen=True)
class Shape:
    """What decides how much a row takes."""

    hidden_size: int
    intermediate_size: int
    dtype: torch.dtype
    """Of the hidden states on disk: the model's own."""

    @property
    def row_bytes(self) -> int:
        """One token's hidden state, and one bit per label."""
        return self.hidden_size * self.dtype.itemsize + self.label_bytes

    @property
    def label_bytes(self) -> int:
        """One token's labels, packed."""
        return -(-self.intermediate_size // 8)


@dataclass(frozen=True)
class States:
    """What one unit read and did: rows in the order of the text."""

    folder: Path
    unit: Unit
    shape: Shape
    num_rows: int

    def rows(self, at: np.ndarray | slice) -> tuple[Tensor, Tensor]:
        """Returns hidden states [rows, hidden], the model's dtype, and labels [rows, intermediate], bool."""
        states, labels = self._maps
        bits = np.unpackbits(labels[at], axis=1, count=self.shape.intermediate_size, bitorder="little")
        hidden = torch.from_numpy(np.ascontiguousarray(states[at])).view(self.shape.dtype)
        return hidden, torch.from_numpy(bits).bool()

    @property
    def is_there(self) -> bool:
        """Whether they were not removed yet."""
        return (self.folder / f"{self.unit.name}.labels").is_file()

    def remove(self) -> None:
        """Deletes the files."""
        for suffix in (".states", ".labels"):
            (self.folder / f"{self.unit.name}{suffix}").unlink(missing_ok=True)

    @cached_property
    def _maps(self) -> tuple[np.ndarray, np.ndarray]:
        state_bytes = self.shape.hidden_size * self.shape.dtype.itemsize
        states, labels = (
            np.memmap(self.folder / f"{self.unit.name}{suffix}", np.uint8, "c", shape=(self.num_rows, width))
            for suffix, width in ((".states", state_bytes), (".labels", self.shape.label_bytes))
        )
        return states, labels


def shape_of(model: PreTrainedModel) -> Shape:
    """Returns the sizes of a model's rows."""
    return Shape(model.config.hidden_size, model.config.intermediate_size, model.dtype)


def units_of(model: PreTrainedModel) -> list[Unit]:
    """Returns a model's FFNs, or all experts of all layers."""
    num_experts = getattr(model.config, "num_local_experts", None)
    experts = [None] if num_experts is None else list(range(num_experts))
    return [Unit(layer, expert) for layer in range(model.config.num_hidden_layers) for expert in experts]


def plan_passes(model: PreTrainedModel, config: PredictorConfig) -> list[range]:
    """Returns the layers that each pass over the text collects, so that the disk budget holds.

    Raises:
        ConfigError: Not even one layer fits.
    """
    budget, num_tokens = config.post_hoc.disk_budget_bytes, config.post_hoc.num_tokens
    rows_per_token = getattr(model.config, "num_experts_per_tok", 1)
    layer_bytes = num_tokens * rows_per_token * shape_of(model).row_bytes
    if layer_bytes > budget:
        raise ConfigError(
            "finetune.predictor.post_hoc.disk_budget_bytes",
            budget,
            f"at least the {layer_bytes:,} bytes of one layer's states over {num_tokens:,} tokens",
            "raise it, or lower post_hoc.num_tokens",
        )
    num_layers, size = model.config.num_hidden_layers, budget // layer_bytes
    return [range(start, min(start + size, num_layers)) for start in range(0, num_layers, size)]


def collect_states(
    model: PreTrainedModel,
    windows: Iterable[Tensor],
    units: Sequence[Unit],
    config: PredictorConfig,
    folder: Path,
) -> list[States]:
    """Runs the model over windows of token ids [tokens] and writes what some FFNs read and did.

    Files grow with the rows that come, and their number is written at the end: no row is there that was
    never written. What an earlier call has collected in the folder is used again.

    Args:
        model: one of ours; its predictors, if any, play no part.
        windows: the text, of which `post_hoc.num_tokens` are read at the most.
        units: whose states.
        config: labels and number of tokens.
        folder: gets two files per unit and states.json.
    """
    index = folder / INDEX_NAME
    if not index.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        num_rows = _write(model, windows, units, config, folder)
        draft = index.with_suffix(".draft")
        rows = [{**asdict(unit), "num_rows": num_rows[unit]} for unit in units]
        draft.write_text(json.dumps(rows), encoding="utf-8")
        draft.replace(index)
    return [
        States(folder, Unit(row["layer"], row["expert"]), shape_of(model), row["num_rows"])
        for row in json.loads(index.read_text(encoding="utf-8"))
    ]


@torch.no_grad()
def _write(
    model: PreTrainedModel,
    windows: Iterable[Tensor],
    units: Sequence[Unit],
    config: PredictorConfig,
    folder: Path,
) -> dict[Unit, int]:
    with ExitStack() as files:
        writer = _Writer(
            {
                unit: (
                    files.enter_context((folder / f"{unit.name}.states").open("wb")),
                    files.enter_context((folder / f"{unit.name}.labels").open("wb")),
                )
                for unit in units
            },
            config,
        )
        files.enter_context(observe(model, writer))
        for window in first_tokens(windows, config.post_hoc.num_tokens):
            model(input_ids=window[None].to(model.device), use_cache=False)
    return writer.num_rows


def first_tokens(windows: Iterable[Tensor], num_tokens: int) -> Iterator[Tensor]:
    """Yields windows until there were as many tokens, the last one cut."""
    left = num_tokens
    for window in windows:
        yield window[:left]
        left -= len(window)
        if left <= 0:
            return


class _Writer:
    """Observes FFNs and appends their rows."""

    def __init__(self, files: dict[Unit, tuple[BinaryIO, BinaryIO]], config: PredictorConfig) -> None:
        self.num_rows = dict.fromkeys(files, 0)
        self._files = files
        self._config = config

    def __call__(self, activations: FFNActivations) -> None:
        unit = Unit(activations.layer, activations.expert)
        if unit not in self._files:
            return
        assert activations.read is not None
        states, labels = self._files[unit]
        hidden = activations.read().contiguous().view(torch.uint8).cpu().numpy()
        active = active_labels(activations.combined, self._config.label_threshold, self._config.label_scale)
        states.write(hidden.data)
        labels.write(np.packbits(active.cpu().numpy(), axis=1, bitorder="little").data)
        self.num_rows[unit] += len(active)
