"""Table 12: the hyperparameters of the 300M models."""

from turbosparse.reproduce.common import Reproduction, Request
from turbosparse.reproduce.recipe_table import RecipeTable, reproduce_recipe

TABLE = RecipeTable(
    name="table12",
    title="Table 12: optimization hyperparameters of the 300M models",
    paper={
        "sequence length, tokens": "2,048",
        "batch size, sequences": "128",
        "learning rate": "0.0001, its end not in the text",
        "warmup steps": "2,000",
        "tokens": "5B",
        "optimizer": "AdamW, β1 0.9, β2 0.95",
        "schedule": "cosine",
        "weight decay": "0.01",
        "hardware": "4 A100-80G",
    },
    preset="300m",
    notes=("Both arms of the study, SwiGLU and dReLU, share this recipe.",),
)


def reproduce(request: Request) -> Reproduction:
    """Sets the recipe of the paper's 300M models beside ours; trains nothing.

    Raises:
        ConfigError: The request's changes do not fit the preset.

    Reference: Table 12 and Appendix A.1.2 of the paper.
    """
    return reproduce_recipe(TABLE, request)
