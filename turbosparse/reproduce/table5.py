"""Table 5: the hyperparameters of dReLU recovery."""

from turbosparse.reproduce.common import Reproduction, Request
from turbosparse.reproduce.recipe_table import RecipeTable, reproduce_recipe

TABLE = RecipeTable(
    name="table5",
    title="Table 5: training hyperparameters",
    paper={
        "sequence length, tokens": "4,096",
        "batch size, sequences": "2,048",
        "learning rate": "5e-05 → 5e-06",
        "warmup steps": "1,000",
        "tokens": "150B",
        "optimizer": "AdamW, β1 0.9, β2 0.95",
        "schedule": "cosine",
        "weight decay": "default: not in the text",
        "gradient clipping, norm": "default: not in the text",
        "hardware": "64 A800-80G",
    },
    preset="mistral-7b",
    notes=(
        "The paper gives no number of steps: 150B tokens in batches of 2,048 sequences of 4,096 are 17,882.",
    ),
)


def reproduce(request: Request) -> Reproduction:
    """Sets the recipe of the paper's recovery beside ours; trains nothing.

    Raises:
        ConfigError: The request's changes do not fit the preset.

    Reference: Table 5 and Section 5 of the paper.
    """
    return reproduce_recipe(TABLE, request)
