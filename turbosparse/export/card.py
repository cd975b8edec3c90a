"""The model card: what the manifests say, and nothing that was not measured."""

from typing import Any

from turbosparse.artifacts import Manifest
from turbosparse.export.check import DecodingSpeed

LOADING = """```python
import turbosparse.model  # registers the classes; without it: trust_remote_code=True
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER", dtype="auto")
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
```"""


def model_card(lineage: list[Manifest], config: Any, speed: DecodingSpeed) -> str:
    """Returns the card as Markdown, from the manifests of the model's lineage."""
    stages = {manifest.kind: manifest for manifest in lineage}
    sections = [
        _head(),
        "# A TurboSparse model\n\n" + _summary(config),
        "## Loading\n\n" + LOADING,
        "## Data\n\n" + _data(stages["prepare"]),
        "## Training\n\n" + _training(stages),
        "## Sparsity and predictors\n\n" + _sparsity(stages),
        "## Evaluation\n\n" + _results(stages["evaluate"]),
        "## Decoding speed\n\n" + _speed(speed),
        "## Lineage\n\n" + _lineage(lineage),
    ]
    return "\n\n".join(sections) + "\n"


def _head() -> str:
    return "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags: [turbosparse, drelu]\n---"


def _summary(config: Any) -> str:
    return (
        f"A `{config.model_type}` decoder with activation `{config.activation}`: "
        f"{config.num_hidden_layers} layers, hidden size {config.hidden_size:,}, "
        f"intermediate size {config.intermediate_size:,}, vocabulary {config.vocab_size:,}, "
        f"predictors of rank {_ranks(config.predictor_rank)}. Made by the TurboSparse pipeline."
    )


def _data(prepare: Manifest) -> str:
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
    return f"{metrics['num_tokens']:,} tokens prepared.\n\n{table}"


def _training(stages: dict[str, Manifest]) -> str:
    rows = []
    for kind in ("base", "pretrain", "finetune"):
        if kind not in stages:
            continue
        config, metrics = stages[kind].config, stages[kind].metrics
        recipe = config.get("train", config)
        losses = f"{metrics['first_loss']:.3f} → {metrics['last_loss']:.3f}"
        rows.append(
            (kind, recipe["num_steps"], recipe["batch_size_sequences"], recipe["learning_rate"], losses)
        )
    head = (
        "stage",
        "steps",
        "sequences per step",
        "peak learning rate",
        "loss per token, first step → last tenth",
    )
    return f"SwiGLU source: {stages['convert'].metrics['source']}.\n\n" + _table(head, rows)


def _sparsity(stages: dict[str, Manifest]) -> str:
    tuned, evaluated = stages["finetune"].metrics, stages["evaluate"].metrics
    parameters = evaluated["activated_parameters"]
    rows = [
        ("zero activations on held-back text, mean over layers", f"{evaluated['zero_activation_ratio']:.1%}"),
        ("predictor recall on held-back conversations", f"{tuned['recall']:.1%}"),
        ("predictor precision", f"{tuned['precision']:.1%}"),
        ("neurons predicted active", f"{tuned['predicted_active_ratio']:.1%}"),
        ("neurons truly active", f"{tuned['true_active_ratio']:.1%}"),
        ("parameters read per token", f"{parameters['total']:,}"),
    ]
    return _table(("measure", "value"), rows)


def _results(evaluate: Manifest) -> str:
    items = evaluate.metrics["num_items"]
    rows = [
        (task, items[task], metric, f"{value:.4f}")
        for task, metrics in evaluate.metrics["results"].items()
        for metric, value in metrics.items()
        if not metric.endswith("_stderr")
    ]
    return _table(("task", "items", "metric", "value"), rows)


def _speed(speed: DecodingSpeed) -> str:
    return (
        "Greedy, batch 1, on the machine that exported it, by the reference operator in PyTorch: "
        f"dense {speed.dense_tokens_per_second:.1f} tokens/s, "
        f"exact sparse {speed.exact_tokens_per_second:.1f} tokens/s, ratio {speed.ratio:.2f}."
    )


def _lineage(lineage: list[Manifest]) -> str:
    names = dict.fromkeys(manifest.name for manifest in lineage)
    return "\n".join(f"- `{name}`" for name in names)


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _ranks(rank: int | list[int]) -> str:
    return str(rank) if isinstance(rank, int) else f"{min(rank)} to {max(rank)}"
