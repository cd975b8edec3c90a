"""Figure 7: distribution of combined activations over layers and experts."""

from turbosparse.analysis.statistics import Analysis, AnalysisPlan
from turbosparse.reports.activation_plots import MAX_LAYERS, Panel, layer_curves, plot_distributions, spread
from turbosparse.reproduce.common import LoadedModel, Reproduction, Request, analysed_models, percent
from turbosparse.reproduce.made import MOE_ORIGINAL, ORIGINAL, given_or_made

MODELS = (ORIGINAL, MOE_ORIGINAL)
PAPER = {"Mistral and Mixtral": "similar: activations of every layer and expert lie around 0"}


def reproduce(request: Request) -> Reproduction:
    """Draws the combined activations of some layers and experts and measures how near zero they lie.

    Where no model is given, it makes two.

    Raises:
        DataError: Models without text.
        TurboSparseError: The models can't be made as requested.

    Reference: Figure 7 and Appendix A.2 of the paper.
    """
    plan, given = AnalysisPlan(), given_or_made(request, MODELS)
    measured, panels, rows = {}, [], []
    for loaded, analysis in analysed_models(given.request, plan):
        drawn = spread([activity.layer for activity in analysis.layers()], MAX_LAYERS)
        panels.append([_panel(loaded, analysis, layer) for layer in drawn])
        near_zero = {layer: analysis.near_zero_ratio(layer) for layer in drawn}
        measured[loaded.label] = {
            "near_zero_layers": [analysis.near_zero_ratio(activity.layer) for activity in analysis.layers()],
            "experts": analysis.experts(),
            "num_tokens": analysis.num_tokens,
        }
        label = f"{loaded.label} ({loaded.activation})"
        rows += [[label, layer, percent(near_zero[layer])] for layer in drawn]
    plot = request.out / "figure7.png"
    plot_distributions(panels, "Figure 7: combined activations by layer and expert", plot)
    return Reproduction(
        name="figure7",
        title="Figure 7: combined activations by layer and expert",
        header=["model", "layer", f"at most {plan.near_zero_threshold:g} RMS"],
        rows=rows,
        measured=measured,
        paper=PAPER,
        notes=[
            *given.notes,
            f"At most {MAX_LAYERS} layers, and {MAX_LAYERS} experts of each, are drawn; the JSON has all.",
            "The paper gives this figure as a picture: its points are not in the text; the words are.",
        ],
        plots=[plot],
    )


def _panel(loaded: LoadedModel, analysis: Analysis, layer: int) -> Panel:
    return Panel(f"{loaded.label}\nlayer {layer}", layer_curves(analysis, layer, "combined"))
