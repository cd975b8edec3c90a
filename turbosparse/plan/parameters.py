"""The model that a stage trains, without its weights, and what its parameters are for."""

from dataclasses import asdict, dataclass

from transformers import PreTrainedModel

from turbosparse.config import PipelineConfig
from turbosparse.model.convert import decoder_config
from turbosparse.model.folder import open_folder
from turbosparse.model.layout import OurConfig, on_meta
from turbosparse.plan.schedule import predictor_rank


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters by what they are for."""

    embeddings: int
    """Input embedding and output projection; once where they are tied."""
    attention: int
    ffn: int
    """Gate, up and down projections, of all experts."""
    router: int
    predictor: int
    norm: int

    @property
    def total(self) -> int:
        """The sum of the parts."""
        return sum(asdict(self).values())


def planned_model(config: PipelineConfig, source: str | None, trains_predictors: bool) -> OurConfig:
    """Returns the configuration of the model to train: the source folder's own, where there is one.

    The few tokens that a chat template adds are left out.

    Raises:
        ModelError: The source is not a folder of a known architecture.
    """
    model = open_folder(source)[0] if source else decoder_config(config.model, config.data.vocab_size)
    if trains_predictors:
        model.predictor_rank = predictor_rank(config.finetune, model.hidden_size, model.intermediate_size)
    return model


def count_parameters(model: PreTrainedModel) -> Parameters:
    """Counts a model's parameters; one on the meta device will do."""
    counts = dict.fromkeys(Parameters.__dataclass_fields__, 0)
    for name, parameter in model.named_parameters():
        counts[_part_of(name)] += parameter.numel()
    return Parameters(**counts)


def model_on_meta(config: OurConfig) -> PreTrainedModel:
    """Returns the model without weights, tied where it is tied."""
    model = on_meta(config)
    if config.tie_word_embeddings:
        model.tie_weights()
    return model


def _part_of(name: str) -> str:
    parts = {
        ".predictor.": "predictor",
        ".mlp.gate.": "router",
        ".mlp.": "ffn",
        ".self_attn.": "attention",
        "norm.": "norm",
        "embed_tokens.": "embeddings",
        "lm_head.": "embeddings",
    }
    return next(part for mark, part in parts.items() if mark in name)
