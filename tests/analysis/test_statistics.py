"""One pass counts what a count by hand over all activations finds."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from turbosparse.analysis.activity import measure_activity
from turbosparse.analysis.report import report_analysis
from turbosparse.analysis.statistics import PARTS, AnalysisPlan, analyse, hot_neuron_ratio
from turbosparse.analysis.taps import tapped
from turbosparse.errors import DataError, ModelError
from turbosparse.model.convert import with_predictors
from turbosparse.reports.activation_plots import write_analysis


def gathered(model, tokens, part="combined"):
    """All activations by (layer, expert): what a pass must not hold, put together."""
    found = {}

    def tap(seen):
        found.setdefault((seen.layer, seen.expert), []).append(getattr(seen, part).clone())

    with torch.no_grad(), tapped(model, tap):
        for window in tokens:
            model(window[None])
    return {key: torch.cat(pieces) for key, pieces in found.items()}


def test_counts_by_neuron_and_near_zeros_are_those_by_hand(model, tokens):
    analysis = analyse(model, list(tokens))
    combined = gathered(model, tokens)
    assert {key for key, unit in analysis.units.items() if unit.num_tokens} == combined.keys()
    for key, values in combined.items():
        unit = analysis.units[key]
        assert torch.equal(unit.neuron_counts, (values != 0).sum(0))
        assert unit.num_tokens == len(values)
        relative = values.abs() / values.square().mean(-1, keepdim=True).sqrt()
        for threshold in analysis.plan.thresholds:
            assert unit.near_zero[threshold] == (relative <= threshold).sum()
    assert analysis.num_tokens == tokens.numel()


def test_neuron_counts_sum_to_the_active_ones_of_figure_6(model, tokens):
    analysis = analyse(model, list(tokens))
    for activity in analysis.layers():
        units = analysis.units_of(activity.layer)
        active = sum(int(unit.neuron_counts.sum()) for unit in units)
        total = sum(unit.num_activations for unit in units)
        assert activity.true_active_ratio == pytest.approx(active / total)


def test_histograms_hold_every_value_once(model, tokens):
    analysis = analyse(model, list(tokens))
    for part in PARTS:
        values = torch.cat([found.flatten() for found in gathered(model, tokens, part).values()])
        pooled = analysis.histogram(part)
        assert pooled.num_values == len(values)
        assert pooled.num_zeros == (values == 0).sum()


def test_a_pass_gives_what_the_lighter_one_gives_predictors_included(make_model, tokens):
    model = with_predictors(make_model("our drelu mixtral"), rank=4, seed=0).eval()
    lighter, full = measure_activity(model, list(tokens)), analyse(model, list(tokens))
    assert full.layers() == lighter.layers()
    assert [activity.recall for activity in full.layers()] != [None, None]
    kept = [{name: row[name] for name in lighter.experts()[0]} for row in full.experts()]
    assert kept == lighter.experts()


def test_near_zero_neurons_carry_at_most_their_stated_share_of_the_norm(make_model, tokens):
    """What the docstring promises of the threshold, whatever the distribution."""
    for values in gathered(make_model("mixtral"), tokens).values():
        limit = 0.3 * values.square().mean(-1, keepdim=True).sqrt()
        dropped = torch.where(values.abs() <= limit, values, 0)
        assert (dropped.norm(dim=-1) <= 0.3 * values.norm(dim=-1)).all()


def test_memory_does_not_grow_with_the_text(make_model, tokens):
    model = make_model("our drelu mixtral")

    def num_bytes(analysis):
        tensors = [unit.neuron_counts for unit in analysis.units.values()]
        tensors += [unit.histograms[part].counts for unit in analysis.units.values() for part in PARTS]
        return sum(tensor.untyped_storage().nbytes() for tensor in tensors)

    long = (window for _ in range(8) for window in tokens)
    assert num_bytes(analyse(model, long)) == num_bytes(analyse(model, list(tokens)))


def test_a_random_drelu_model_is_three_quarters_zero_and_a_swiglu_one_not_at_all(make_model, tokens):
    drelu = analyse(make_model("our drelu mistral"), list(tokens)).layers()
    assert all(0.65 < activity.zero_activation_ratio < 0.85 for activity in drelu)
    swiglu = analyse(make_model("mistral"), list(tokens)).layers()
    assert all(activity.zero_activation_ratio == 0 for activity in swiglu)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [([5, 5, 5, 5, 5], 0.8), ([96, 1, 1, 1, 1], 0.2), ([0, 0, 3, 0], 0.25), ([0, 0], None)],
)
def test_hot_neurons_are_the_fewest_that_make_up_the_share(counts, expected):
    assert hot_neuron_ratio(torch.tensor(counts)) == expected


def test_experts_that_no_token_reaches_count_as_cold(make_model, tokens, tmp_path):
    model = make_model("our drelu mixtral")
    # One token goes to two of the four experts.
    analysis = analyse(model, [tokens[0, :1]])
    idle = [unit for unit in analysis.units_of(0) if not unit.num_tokens]
    assert idle
    assert analysis.neuron_counts().keys() >= {f"activation_0.expert_{expert}" for expert in range(4)}
    reached = torch.cat([unit.neuron_counts for unit in analysis.units_of(0) if unit.num_tokens])
    share_of_reached = hot_neuron_ratio(reached)
    assert analysis.hot_neuron_ratio(0) == pytest.approx(share_of_reached * len(reached) / (4 * 48))
    assert write_analysis(analysis, tmp_path)


def test_without_histograms_nothing_else_changes(make_model, tokens):
    model = make_model("our drelu mistral")
    light = analyse(model, list(tokens), AnalysisPlan(with_histograms=False))
    assert report_analysis(model, light) == report_analysis(model, analyse(model, list(tokens)))


def test_nothing_measured_is_an_error(make_model):
    with pytest.raises(DataError, match="no windows"):
        analyse(make_model("mistral"), [])


def test_activations_that_overflow_are_named(make_model, tokens):
    model = make_model("mistral")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.fill_(1e38)
        model.model.layers[1].mlp.gate_proj.weight.fill_(1e38)
    with pytest.raises(ModelError, match="activations of layer 1"):
        analyse(model, list(tokens))


def test_counts_on_disk_are_named_by_layer_and_expert(make_model, tokens, tmp_path):
    dense = analyse(make_model("our drelu mistral"), list(tokens))
    files = write_analysis(dense, tmp_path)
    assert all(path.stat().st_size for path in files)
    counts = load_file(tmp_path / "activation_counts.safetensors")
    assert counts.keys() == {"activation_0", "activation_1"}
    assert torch.equal(counts["activation_1"], dense.units[1, None].neuron_counts)
    assert counts["activation_0"].dtype == torch.int64
    names = analyse(make_model("qwen2_moe"), list(tokens)).neuron_counts().keys()
    assert {"activation_0", "activation_1.expert_0", "activation_1.expert_shared"} <= names


def test_predictor_thresholds_may_differ_by_layer(make_model, tokens):
    model = with_predictors(make_model("our drelu mistral"), rank=4, seed=0).eval()
    model.config.predictor_threshold = [1e9, -1e9]
    ratios = [activity.predicted_active_ratio for activity in analyse(model, list(tokens)).layers()]
    assert ratios == [0, 1]


def test_a_plan_counts_its_main_threshold_with_the_others():
    plan = dataclasses.replace(AnalysisPlan(), near_zero_threshold=0.15)
    assert plan.thresholds == (0.01, 0.02, 0.05, 0.15, 0.2, 0.3)
