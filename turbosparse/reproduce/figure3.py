"""Figure 3: distribution of gate, up and combined activations in layer 0."""

from turbosparse.analysis.histogram import EDGES, Histogram
from turbosparse.analysis.statistics import PARTS, AnalysisPlan
from turbosparse.reports.activation_plots import Panel, plot_distributions
from turbosparse.reproduce.common import Reproduction, Request, analysed_models, percent
from turbosparse.reproduce.made import ORIGINAL, RELU, given_or_made

LAYER = 0
MODELS = (ORIGINAL, RELU)
PAPER = {
    "ReLULlama-7B": "combined more concentrated around 0 than Llama-2-7B's; gate without negatives",
    "Llama-2-7B": "up distributed as ReLULlama-7B's: much of it below 0",
}


def reproduce(request: Request) -> Reproduction:
    """Draws layer 0's activations of each model and measures how many are zero and below zero.

    Where no model is given, it makes two.

    Raises:
        DataError: Models without text.
        TurboSparseError: The models can't be made as requested.

    Reference: Figure 3 and Section 3.1 of the paper.
    """
    given = given_or_made(request, MODELS)
    measured, panels, rows = {}, [], []
    for loaded, analysis in analysed_models(given.request, AnalysisPlan()):
        parts = {part: analysis.histogram(part, analysis.units_of(LAYER)) for part in PARTS}
        label = f"{loaded.label} ({loaded.activation})"
        panels.append([Panel(f"{label}\n{part}", {"layer 0": parts[part]}) for part in PARTS])
        measured[loaded.label] = {part: shares(parts[part]) for part in PARTS}
        rows += [[label, part, *map(percent, shares(parts[part]).values())] for part in PARTS]
    plot = request.out / "figure3.png"
    plot_distributions(panels, "Figure 3: activations in layer 0", plot)
    return Reproduction(
        name="figure3",
        title="Figure 3: post-activation distribution in layer 0",
        header=[
            "model",
            "part",
            "exactly zero",
            "below zero",
            "above zero",
            f"within ±{EDGES.abs().min():.0e}",
        ],
        rows=rows,
        measured=measured,
        paper=PAPER,
        notes=[
            *given.notes,
            "Gate, up and combined as in Equation 1; under dReLU both gate and up are rectified. A mixture "
            "of experts' layer pools the experts.",
            "The paper gives this figure as a picture: its points are not in the text; the words are.",
        ],
        plots=[plot],
    )


def shares(histogram: Histogram) -> dict[str, float]:
    """Returns the shares of values that are zero, below, above, and too small for their sign to be kept."""
    middle = len(histogram.counts) // 2
    counted = {
        "zero": histogram.num_zeros,
        "below_zero": int(histogram.counts[:middle].sum()),
        "above_zero": int(histogram.counts[middle + 1 :].sum()),
        "tiny": int(histogram.counts[middle]),
    }
    return {name: count / histogram.num_values for name, count in counted.items()}
