"""dReLU Mistral and Mixtral. Importing this registers them with transformers' Auto classes."""

from transformers import AutoConfig, AutoModelForCausalLM

from turbosparse.model.configuration import TurboSparseMistralConfig, TurboSparseMixtralConfig
from turbosparse.model.mistral import TurboSparseMistralForCausalLM
from turbosparse.model.mixtral import TurboSparseMixtralForCausalLM

AutoConfig.register("turbosparse_mistral", TurboSparseMistralConfig)
AutoConfig.register("turbosparse_mixtral", TurboSparseMixtralConfig)
AutoModelForCausalLM.register(TurboSparseMistralConfig, TurboSparseMistralForCausalLM)
AutoModelForCausalLM.register(TurboSparseMixtralConfig, TurboSparseMixtralForCausalLM)

__all__ = [
    "TurboSparseMistralConfig",
    "TurboSparseMistralForCausalLM",
    "TurboSparseMixtralConfig",
    "TurboSparseMixtralForCausalLM",
]
