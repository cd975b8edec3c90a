"""Figure 6: share of zero activations by layer."""

from turbosparse.analysis.activity import mean
from turbosparse.analysis.statistics import AnalysisPlan
from turbosparse.reports.activation_plots import plot_layer_ratios
from turbosparse.reproduce.common import Reproduction, Request, analysed_models, percent
from turbosparse.reproduce.made import MOE_TUNED, TUNED, given_or_made

SHARE_OF_EXPERTS = 2 / 8
"""Of Mixtral's experts, a token is routed to."""
MODELS = (TUNED, MOE_TUNED)
PAPER = {"TurboSparse-Mistral-7B": 0.90, "TurboSparse-Mixtral-47B": 0.85}
ACTIVE_RATIO = 1 - PAPER["TurboSparse-Mixtral-47B"]


def reproduce(request: Request) -> Reproduction:
    """Measures each model's exact zeros by layer and expert, and draws them; makes both where none is given.

    Raises:
        DataError: Models without text.
        TurboSparseError: The models can't be made as requested.

    Reference: Figure 6 and Section 6.2 of the paper.
    """
    given = given_or_made(request, MODELS)
    measured, curves = {}, {}
    for loaded, analysis in analysed_models(given.request, AnalysisPlan(with_histograms=False)):
        layers = analysis.layers()
        curves[loaded.label] = [activity.zero_activation_ratio for activity in layers]
        measured[loaded.label] = {
            "activation": loaded.activation,
            "zero_activation_ratio": mean(layers, "zero_activation_ratio"),
            "layers": curves[loaded.label],
            "experts": analysis.experts(),
            "num_tokens": analysis.num_tokens,
        }
    plot = request.out / "figure6.png"
    plot_layer_ratios(curves, "activations exactly zero", "Figure 6: sparsity by layer", plot)
    rows = [
        [f"{label} ({measured[label]['activation']})", *map(percent, _range(values))]
        for label, values in curves.items()
    ]
    rows += [[f"paper: {label}", percent(ratio), "–", "–"] for label, ratio in PAPER.items()]
    return Reproduction(
        name="figure6",
        title="Figure 6: zero activations by layer",
        header=["model", "mean", "lowest layer", "highest layer"],
        rows=rows,
        measured=measured,
        paper=PAPER,
        notes=[
            *given.notes,
            "Exact zeros among the FFN's combined activations; in a mixture of experts, of the experts that "
            "each token was routed to.",
            "The paper measured on FineWeb and gives layers only as a picture: their figures are not in the "
            "text, their means are.",
            "The paper says that 3% of a mixture's FFN parameters are active, 97% are not. 2 of 8 experts, "
            f"{ACTIVE_RATIO:.0%} of each, are {SHARE_OF_EXPERTS * ACTIVE_RATIO:.2%}.",
        ],
        plots=[plot],
    )


def _range(values: list[float]) -> tuple[float, float, float]:
    return sum(values) / len(values), min(values), max(values)
