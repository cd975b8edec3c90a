"""The card says what the manifests say, and nothing else."""

import pytest

from turbosparse.artifacts import ArtifactSpec, Store
from turbosparse.export.card import MeasuredSpeed, model_card
from turbosparse.export.check import DecodingSpeed
from turbosparse.export.lineage import lineage_of
from turbosparse.model.configuration import TurboSparseMistralConfig, TurboSparseMixtralConfig

RECIPE = {
    "num_steps": 123,
    "batch_size_sequences": 8,
    "learning_rate": 0.0021,
    "final_learning_rate_ratio": 0.1,
    "warmup_steps": 7,
    "adam_beta1": 0.91,
    "adam_beta2": 0.955,
    "weight_decay": 0.013,
    "gradient_clip_norm": 1.5,
}
LOSSES = {"first_loss": 7.654, "last_loss": 3.21}
STAGES = {
    "prepare": (
        {"mixture": {"c4": 60.0, "wiki": 40.0}},
        {
            "num_tokens": 98_765,
            "token_ratio": {"c4": 0.61, "wiki": 0.39},
            "stands_behind": {"c4": "docstrings", "wiki": "manual pages"},
            "substitute_ratio": 0.25,
        },
    ),
    "convert": ({}, {"source": "a folder"}),
    "pretrain": (RECIPE, LOSSES),
    "finetune": (
        RECIPE | {"num_steps": 45},
        LOSSES
        | {
            "recall": 0.876,
            "precision": 0.543,
            "predicted_active_ratio": 0.321,
            "true_active_ratio": 0.234,
        },
    ),
    "evaluate": (
        {},
        {
            "results": {"arc": {"acc": 0.4567, "acc_stderr": 0.01}},
            "num_items": {"arc": 77},
            "zero_activation_ratio": 0.812,
            "num_sparsity_tokens": 4_096,
            "activated_parameters": {"total": 1_234_567},
            "layers": [
                {"layer": 0, "zero_activation_ratio": 0.71, "predicted_active_ratio": 0.33},
                {"layer": 1, "zero_activation_ratio": 0.91, "predicted_active_ratio": None},
            ],
        },
    ),
}
PARENTS = {
    "convert": {"corpus": "prepare"},
    "pretrain": {"model": "convert"},
    "finetune": {"model": "pretrain"},
    "evaluate": {"model": "finetune"},
}


@pytest.fixture
def store(tmp_path):
    """A store with every stage's artifact."""
    store, specs = Store(str(tmp_path / "runs")), {}
    for kind, (config, metrics) in STAGES.items():
        parents = {role: specs[parent] for role, parent in PARENTS.get(kind, {}).items()}
        specs[kind] = ArtifactSpec(kind, 1, config, parents)

        def build(workspace, metrics=metrics):
            (workspace.folder / "model").mkdir()
            (workspace.folder / "model" / "config.json").write_text("{}")
            return metrics

        store.produce(specs[kind], build)
    return store, specs


def card(lineage, **options):
    return model_card(TurboSparseMistralConfig(predictor_rank=64), lineage, **options)


def test_every_measured_figure_is_there(store):
    found, specs = store
    lineage = [manifest for _, _, manifest in found.lineage(found.find(specs["evaluate"]).manifest)]
    speed = MeasuredSpeed(DecodingSpeed(12.3, 45.6, 3.71, "a machine"), "turbosparse run export")
    text = card(lineage, speed=speed)
    for figure in (
        "98,765 tokens",
        "25.0% of them",
        "| c4 | 60.00 | 61.00 | docstrings |",
        "| pretrain | 123 | 8 | 0.0021 | 0.1 | 7 | 0.91 | 0.955 | 0.013 | 1.5 | 7.654 → 3.210 |",
        "| finetune | 45 |",
        "| recall | 87.6% |",
        "| 0 | 71.0% | 33.0% |",
        "| 1 | 91.0% | – |",
        "1,234,567 parameters",
        "| arc | 77 | acc | 0.4567 |",
        "a machine: dense 12.3 tokens/s, exact sparse 45.6 tokens/s, ratio 3.71",
        "`turbosparse run export`",
        f"`{specs['prepare'].name}`",
    ):
        assert figure in text, figure
    assert "acc_stderr" not in text


def test_what_was_not_measured_is_not_said():
    text = card([])
    for heading in ("Data", "Training", "Predictors", "Sparsity", "Evaluation", "Decoding speed"):
        assert f"## {heading}" not in text
    assert "nothing is known" in text


def test_the_released_layout_says_how_it_is_loaded():
    dense = card([], is_released=True)
    assert "load_model" in dense
    assert "trust_remote_code=True" in dense
    experts = model_card(TurboSparseMixtralConfig(), [], is_released=True)
    assert "load_model" in experts
    assert "trust_remote_code" not in experts


def test_a_model_in_a_store_knows_its_ancestors_and_its_evaluation(store):
    found, specs = store
    model = found.find(specs["finetune"]).folder() / "model"
    assert {manifest.kind for manifest in lineage_of(model)} == set(STAGES)
    base = found.find(specs["pretrain"]).folder() / "model"
    assert {manifest.kind for manifest in lineage_of(base)} == {"prepare", "convert", "pretrain"}


def test_a_folder_outside_a_store_has_no_lineage(tmp_path):
    assert lineage_of(tmp_path) == []
