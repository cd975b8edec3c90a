"""Recovery: every model is measured alike, on text that none was trained on."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from turbosparse.artifacts import ArtifactSpec, Store
from turbosparse.config import ModelConfig, Placement
from turbosparse.data.tokenizer import train_tokenizer
from turbosparse.errors import DataError, ModelError
from turbosparse.export.huggingface import copy_tokenizer
from turbosparse.model.convert import convert_model, initial_model
from turbosparse.model.folder import load_model, save_model
from turbosparse.reproduce import recovery
from turbosparse.reproduce.common import Request, as_record

SHAPE = ModelConfig(
    hidden_size=32, intermediate_size=64, num_layers=2, num_heads=4, num_kv_heads=2, context_length=256
)
ROWS = ["A short row.", *(f"Row {n} tells of a fox and an owl. " * 40 for n in range(4))]
TINY = {
    "data": {
        "sampling": {"num_tokens": 6_000, "max_document_tokens": 64, "batch_size_documents": 32},
        "num_tokens": 4_096,
        "sequence_length": 64,
        "near_duplicates": False,
    },
    "pretrain": {
        "num_steps": 4,
        "batch_size_sequences": 4,
        "warmup_steps": 1,
        "sequence_warmup": {"length_tokens": 32},
    },
}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("source")
    tokenizer = train_tokenizer(ROWS, 300)
    tokenizer.save_pretrained(folder)
    save_model(initial_model(SHAPE, tokenizer, "swiglu"), folder)
    return str(folder)


@pytest.fixture
def request_of(source, tmp_path):
    text = tmp_path / "rows.jsonl"
    text.write_text("\n".join(json.dumps({"text": row}) for row in ROWS))

    def make(**changes) -> Request:
        placement = Placement(root=str(tmp_path / "runs"), corpora=str(tmp_path))
        fields = {"models": [source], "text": text, "placement": placement, "overrides": TINY}
        return Request(tmp_path / "out", **(fields | changes))

    return make


def test_rows_are_cut_to_their_first_tokens_and_begin_with_bos(request_of, source, monkeypatch):
    monkeypatch.setattr(recovery, "ROW_TOKENS", 20)
    windows = recovery.row_windows(request_of().text, source)
    assert [int(window[0]) for window in windows] == [1] * len(ROWS)
    assert {len(window) for window in windows[1:]} == {21}
    assert len(windows[0]) <= 21
    monkeypatch.setattr(recovery, "ROW_TOKENS", 10_000)
    longest = max(map(len, recovery.row_windows(request_of().text, source)))
    assert longest == 1 + SHAPE.context_length


def test_the_loss_is_the_mean_over_tokens_not_over_rows(request_of, source):
    windows, model = recovery.row_windows(request_of().text, source), load_model(source)
    losses = [
        cross_entropy(model(input_ids=window[None]).logits[0, :-1], window[1:], reduction="none")
        for window in windows
    ]
    found = recovery.measure(model, windows)
    assert found.loss == pytest.approx(float(torch.cat(losses).mean().detach()), rel=1e-5)
    assert found.zero_activation_ratio == 0


def test_variants_train_on_sampled_text_whatever_corpora_are_at_hand(request_of, source):
    runs = [recovery.open_variant(request_of(), source, changes) for changes in recovery.VARIANTS.values()]
    for run in runs:
        assert run.config.data.corpora == "sampled"
        assert "sampled from" in run.corpora.describe(run.config.data.mixture)["wanjuan-cc"]
        assert run.placement.source == source
        assert run.config.pretrain.distillation is not None
        assert run.config.pretrain.num_steps == 4
    assert [run.config.pretrain.sparsity_penalty is not None for run in runs] == [False, True]


@pytest.fixture
def made(source, tmp_path, monkeypatch):
    """The stages' artifacts without their training: a converted model in place of every trained one."""
    store = Store(str(tmp_path / "runs"))

    def make(run, stage, listener=None):
        def build(workspace):
            convert_model(source, workspace.folder / "model", "drelu")
            copy_tokenizer(Path(source), workspace.folder / "model")
            return {}

        config = {"prepare": run.config.data, "pretrain": run.config.pretrain}.get(stage)
        tree = config.model_dump(mode="json") if config else {}
        return store.produce(ArtifactSpec(stage, 1, tree, {}), build)

    monkeypatch.setattr(recovery, "make", make)
    return make


def test_variants_stand_at_the_top_of_the_json_with_their_ratios(request_of, made):
    record = as_record(recovery.reproduce(request_of()))
    assert [variant["name"] for variant in record["variants"]] == list(recovery.VARIANTS)
    for variant in record["variants"]:
        assert variant["loss"] == record["loss_converted"]
        assert variant["ratio"] == variant["loss"] / record["loss_swiglu"]
        assert 0.3 < variant["zero_activation_ratio"] < 1
        assert variant["num_training_tokens"] == 4 * 4 * 64
    assert record["loss_swiglu"] != record["loss_converted"]
    assert json.loads(json.dumps(record)) == record


def test_not_one_model_no_text_or_a_converted_model_are_refused(request_of, made, source, tmp_path):
    with pytest.raises(DataError, match="--model"):
        recovery.reproduce(request_of(models=[]))
    with pytest.raises(DataError, match="--model"):
        recovery.reproduce(request_of(models=[source, source]))
    with pytest.raises(DataError, match="--text"):
        recovery.reproduce(request_of(text=None))
    convert_model(source, tmp_path / "drelu", "drelu")
    copy_tokenizer(Path(source), tmp_path / "drelu")
    with pytest.raises(ModelError, match="activation"):
        recovery.reproduce(request_of(models=[str(tmp_path / "drelu")]))


@pytest.mark.slow
def test_the_command_recovers_through_the_pipelines_own_stages(request_of):
    result = recovery.reproduce(request_of())
    recovered, sparse = result.headline["variants"]
    for variant in (recovered, sparse):
        assert variant["loss"] != result.headline["loss_converted"]
        assert set(variant["seconds"]) == {"prepare", "convert", "pretrain"}
    assert recovered["loss"] != sparse["loss"]
