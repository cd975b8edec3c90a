"""The model card: what the manifests say, and nothing that was not measured."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from turbosparse.artifacts import Manifest
from turbosparse.export.check import DecodingSpeed
from turbosparse.export.licences import licences_section
from turbosparse.model.configuration import TurboSparseMixtralConfig

LOADING = """```python
import turbosparse.model  # registers the classes; without it: trust_remote_code=True
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER", dtype="auto")
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
```"""
RELEASED_LOADING = """The layout is that of the released TurboSparse models, for programs that know it. Here:

```python
from turbosparse.model.folder import load_model

model = load_model("FOLDER")
```"""
ELSEWHERE = """

Elsewhere, with the folder's own modelling code:

```python
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("FOLDER", dtype="auto", trust_remote_code=True)
```"""
HYPERPARAMETERS = {
    "num_steps": "steps",
    "batch_size_sequences": "sequences per step",
    "learning_rate": "peak learning rate",
    "final_learning_rate_ratio": "final share of it",
    "warmup_steps": "warmup steps",
    "adam_beta1": "β1",
    "adam_beta2": "β2",
    "weight_decay": "weight decay",
    "gradient_clip_norm": "gradient norm at the most",
}
Stages = dict[str, Manifest]


@dataclass(frozen=True)
class MeasuredSpeed:
    """Decoding speed, and how to measure it again."""

    speed: DecodingSpeed
    command: str


def model_card(
    config: Any, lineage: list[Manifest], speed: MeasuredSpeed | None = None, *, is_released: bool = False
) -> str:
    """Returns the card as Markdown; a section stands there if its stage is in the model's lineage."""
    stages = {manifest.kind: manifest for manifest in lineage}
    sections = [
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags: [turbosparse, drelu]\n---",
        "# A TurboSparse model\n\n" + _summary(config),
        "## Loading\n\n" + _loading(config, is_released),
    ]
    parts: list[tuple[str, tuple[str, ...], Callable[[Stages], str]]] = [
        ("Data", ("prepare",), _data),
        ("Instructions", ("instructions",), _instructions),
        ("Training", ("convert", "pretrain"), _training),
        ("Predictors", ("finetune",), _predictors),
        ("Sparsity", ("evaluate",), _sparsity),
        ("Evaluation", ("evaluate",), _results),
        ("Licences", ("prepare",), licences_section),
    ]
    for title, needed, write in parts:
        if all(kind in stages for kind in needed):
            sections.append(f"## {title}\n\n{write(stages)}")
    if speed is not None:
        sections.append("## Decoding speed\n\n" + _speed(speed))
    sections.append("## Lineage\n\n" + _lineage(lineage))
    return "\n\n".join(sections) + "\n"


def _summary(config: Any) -> str:
    predictors = "no predictors"
    if config.predictor_rank is not None:
        predictors = f"predictors of rank {_ranks(config.predictor_rank)}"
    return (
        f"A `{config.model_type}` decoder with activation `{config.activation}`: "
        f"{config.num_hidden_layers} layers, hidden size {config.hidden_size:,}, "
        f"intermediate size {config.intermediate_size:,}, vocabulary {config.vocab_size:,}, "
        f"{predictors}. Made by the TurboSparse pipeline."
    )


def _loading(config: Any, is_released: bool) -> str:
    if not is_released:
        return LOADING
    is_moe = isinstance(config, TurboSparseMixtralConfig)
    return RELEASED_LOADING if is_moe else RELEASED_LOADING + ELSEWHERE


def _data(stages: Stages) -> str:
    prepare = stages["prepare"]
    metrics = prepare.metrics
    rows = [
        (
            source,
            f"{prepare.config['mixture'][source]:.2f}",
            f"{100 * ratio:.2f}",
            metrics["stands_behind"][source],
        )
        for source, ratio in metrics["token_ratio"].items()
    ]
    table = _table(("source", "wanted %", "realised %", "what stood behind it"), rows)
    substitutes = ""
    if "substitute_ratio" in metrics:
        share = metrics["substitute_ratio"]
        substitutes = f" {share:.1%} of them are substitutes' for a source that could not be had."
    return f"{metrics['num_tokens']:,} tokens prepared.{substitutes}\n\n{table}"


def _instructions(stages: Stages) -> str:
    metrics = stages["instructions"].metrics
    rows = [(name, metrics["num_rows"].get(name, ""), text) for name, text in _behind(metrics).items()]
    return _table(("set", "usable rows", "what stood behind it"), rows)


def _behind(metrics: dict[str, Any]) -> dict[str, str]:
    found = metrics["stands_behind"]
    return found if isinstance(found, dict) else {"instructions": str(found)}


def _training(stages: Stages) -> str:
    rows = []
    for kind in ("base", "pretrain", "finetune"):
        if kind in stages:
            config, metrics = stages[kind].config, stages[kind].metrics
            recipe = config.get("train", config)
            losses = f"{metrics['first_loss']:.3f} → {metrics['last_loss']:.3f}"
            rows.append((kind, *(recipe[name] for name in HYPERPARAMETERS), losses))
    head = ("stage", *HYPERPARAMETERS.values(), "loss per token, first step → last tenth")
    source = stages["convert"].metrics["source"]
    return f"AdamW. SwiGLU source: {source}.\n\n" + _table(head, rows)


def _predictors(stages: Stages) -> str:
    tuned = stages["finetune"].metrics
    rows = [
        ("recall", f"{tuned['recall']:.1%}"),
        ("precision", f"{tuned['precision']:.1%}"),
        ("neurons predicted active", f"{tuned['predicted_active_ratio']:.1%}"),
        ("neurons truly active", f"{tuned['true_active_ratio']:.1%}"),
    ]
    return "On held-back conversations, means over layers.\n\n" + _table(("measure", "value"), rows)


def _sparsity(stages: Stages) -> str:
    evaluated = stages["evaluate"].metrics
    parameters = evaluated["activated_parameters"]
    rows = [
        (layer["layer"], f"{layer['zero_activation_ratio']:.1%}", _percent(layer["predicted_active_ratio"]))
        for layer in evaluated["layers"]
    ]
    return (
        f"Zero activations on {evaluated['num_sparsity_tokens']:,} tokens of held-back text: "
        f"{evaluated['zero_activation_ratio']:.1%}, mean over layers. A token reads "
        f"{parameters['total']:,} parameters.\n\n"
        + _table(("layer", "zero activations", "neurons predicted active"), rows)
    )


def _results(stages: Stages) -> str:
    metrics = stages["evaluate"].metrics
    rows = [
        (task, metrics["num_items"][task], metric, f"{value:.4f}")
        for task, results in metrics["results"].items()
        for metric, value in results.items()
        if not metric.endswith("_stderr")
    ]
    return _table(("task", "items", "metric", "value"), rows)


def _speed(measured: MeasuredSpeed) -> str:
    speed = measured.speed
    return (
        f"Greedy, batch 1, {speed.machine}: dense {speed.dense_tokens_per_second:.1f} tokens/s, "
        f"exact sparse {speed.exact_tokens_per_second:.1f} tokens/s, ratio {speed.ratio:.2f}. "
        f"Measured by `{measured.command}`."
    )


def _lineage(lineage: list[Manifest]) -> str:
    if not lineage:
        return "Exported from a folder outside a store: nothing is known of its data, training or quality."
    return "\n".join(f"- `{name}`" for name in dict.fromkeys(manifest.name for manifest in lineage))


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _percent(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.1%}"


def _ranks(rank: int | list[int]) -> str:
    return str(rank) if isinstance(rank, int) else f"{min(rank)} to {max(rank)}"
