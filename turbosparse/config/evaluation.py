"""What the tuned model is measured on."""

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from turbosparse.config.base import Config


class EvaluateConfig(Config):
    """What the tuned model is measured on."""

    tasks: tuple[str, ...] = ("local_cloze", "local_text")
    """lm-evaluation-harness tasks, NAME or NAME:SHOTS, and suites: openllm, commonsense, table10, quick. The
    two local ones are made from held-back documents; the others' items come from
    placement.evaluation_data, or from the hub where there is none."""
    limit: Annotated[int, Gt(0)] | None = None
    """Items per task at the most; none: all."""
    num_fewshot: Annotated[int, Ge(0)] | None = None
    """Examples in each prompt of tasks that do not say themselves; none: each task's own number."""
    mode: Literal["dense", "exact", "predicted"] = "dense"
    """How FFNs compute: `predicted` with only the neurons that the predictors expect; `exact` generates
    text sparsely, its probabilities are those of `dense`."""
    topk_ratio: Annotated[float, Gt(0), Le(1)] | None = None
    """Share of each token's activations, the largest, that every FFN keeps; none: all."""
    num_sparsity_tokens: Annotated[int, Gt(0)] = 8_192
    """Held-back tokens over which activations and predictors are measured."""
