"""A pipeline's artifacts as the stages leave them, their figures made up."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from turbosparse.artifacts import Artifact, ArtifactSpec, Store
from turbosparse.evaluation.records import EvaluationResult, ItemRecord, write_result
from turbosparse.train.history import StepRecord, append_record

PNG = b"\x89PNG\r\n\x1a\n a picture"
LAYERS = [
    {
        "layer": layer,
        "zero_activation_ratio": 0.75 + layer / 100,
        "true_active_ratio": 0.25 - layer / 100,
        "predicted_active_ratio": 0.3125,
        "recall": 0.9375,
        "precision": 0.8125,
    }
    for layer in range(3)
]


def evaluation(right: list[float]) -> EvaluationResult:
    """An evaluation on `piqa`, item by item."""
    records = [
        ItemRecord("piqa", place, f"item {place}", "", "", metrics={"acc": value})
        for place, value in enumerate(right)
    ]
    accuracy = sum(right) / len(right)
    return EvaluationResult(
        results={"piqa": {"acc": accuracy, "acc_stderr": 0.01}},
        num_items={"piqa": len(right)},
        records=records,
        num_too_long={"piqa": 0},
        intervals={"piqa": {"acc": [accuracy - 0.02, accuracy + 0.02]}},
        higher_is_better={"piqa": {"acc": True}},
        num_fewshot={"piqa": 0},
        fewshot_source={},
        versions={"piqa": "1.0"},
        groups={},
        averages={"commonsense acc": {"value": None, "why": "not measured: sciq"}},
        settings={
            "mode": "dense",
            "dtype": "float32",
            "device": "cpu",
            "limit": None,
            "context_tokens": 512,
            "versions": {"lm-eval": "0.4.13"},
        },
    )


@dataclass
class MadeUpRun:
    """A store with a pipeline's artifacts."""

    store: Store
    specs: dict[str, ArtifactSpec]
    export: Artifact

    def evaluate_original(self, right: list[float]) -> Artifact:
        """Adds the evaluation of the model that was converted."""
        parents = {"model": self.specs["base"], "corpus": self.specs["prepare"]}
        return _evaluate(self.store, ArtifactSpec("evaluate", 1, {"of": "original"}, parents), right)


def _evaluate(store: Store, spec: ArtifactSpec, right: list[float]) -> Artifact:
    def build(workspace: Any) -> dict[str, Any]:
        found = evaluation(right)
        write_result(found, workspace.folder)
        (workspace.folder / "sparsity.png").write_bytes(PNG)
        return found.summary() | {
            "zero_activation_ratio": 0.76,
            "num_sparsity_tokens": 8_192,
            "activated_parameters": {"attention": 1_000, "ffn": 2_000, "total": 3_000},
            "layers": LAYERS,
        }

    return store.produce(spec, build)


def _write(folder: Path, files: dict[str, Any]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


def _train(folder: Path, task_results: dict[str, float] | None) -> None:
    for step in range(1, 5):
        record = StepRecord(
            step,
            9.0 - step,
            100.0,
            1e-3,
            validation_losses={"Web": 8.5} if step == 4 else None,
            task_results=task_results if step % 2 == 0 else None,
        )
        append_record(folder / "history.jsonl", record)
    _write(folder, {"history.png": PNG})


@pytest.fixture
def made_up_run(tmp_path) -> MadeUpRun:
    """A dense model's whole pipeline; its corpus has a source with a name that HTML would take amiss."""
    store = Store(str(tmp_path / "root"))
    source = {
        "wanted_ratio": 0.75,
        "realised_ratio": 0.7501,
        "num_tokens": 40_000,
        "repetitions": 1.5,
        "stands_behind": "<script>alert(1)</script>",
    }
    report = {"sequence_length": 256, "sources": {"wanjuan-cc": source}}
    losses = {"first_loss": 8.0, "last_loss": 5.0, "tokens_per_second": 1_000.0}
    tuned = {
        "recall": 0.9375,
        "precision": 0.8125,
        "predicted_active_ratio": 0.3125,
        "true_active_ratio": 0.25,
        "perplexity_exact": 20.0,
        "perplexity_predicted": 20.125,
        "num_measured_tokens": 512,
        "layers": LAYERS,
    }
    speed = {
        "exact_speedup_ratio": 1.75,
        "dense_tokens_per_second": 8.0,
        "exact_tokens_per_second": 14.0,
    }
    specs: dict[str, ArtifactSpec] = {}

    def make(kind: str, parents: dict[str, str], files: dict[str, Any], metrics: dict[str, Any]) -> Artifact:
        specs[kind] = ArtifactSpec(kind, 1, {}, {role: specs[name] for role, name in parents.items()})

        def build(workspace: Any) -> dict[str, Any]:
            _write(workspace.folder, files)
            if kind in ("base", "pretrain", "finetune"):
                _train(workspace.folder, {"piqa.acc": 0.4375} if kind == "pretrain" else None)
            return metrics

        return store.produce(specs[kind], build)

    config = {"model_type": "turbosparse_mistral"}
    make("prepare", {}, {"report.json": report, "mixture.png": PNG}, {})
    make("base", {"corpus": "prepare"}, {}, losses)
    make("convert", {"base": "base", "corpus": "prepare"}, {"model/config.json": config}, {})
    make("pretrain", {"model": "convert", "corpus": "prepare"}, {}, losses)
    pictures = {"predictors.png": PNG, "trade_off.png": PNG, "model/config.json": config}
    make("finetune", {"model": "pretrain"}, pictures, losses | tuned)
    specs["evaluate"] = ArtifactSpec(
        "evaluate", 1, {}, {"model": specs["finetune"], "corpus": specs["prepare"]}
    )
    _evaluate(store, specs["evaluate"], [0.0] * 20 + [1.0] * 20)
    export = make("export", {"model": "finetune", "evaluation": "evaluate"}, {"card.md": b"card"}, speed)
    return MadeUpRun(store, specs, export)
