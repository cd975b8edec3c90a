"""A plain training loop in a process of its own; prints the bytes by which its memory grew at the peak."""

import json
import resource
import sys

import psutil
import torch

from turbosparse.model.configuration import TurboSparseMistralConfig, TurboSparseMixtralConfig
from turbosparse.model.layout import our_class

WARM_UP = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "vocab_size": 64}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 4}


def main() -> None:
    given = json.loads(sys.argv[1])
    is_moe = "num_local_experts" in given["config"]
    config_class = TurboSparseMixtralConfig if is_moe else TurboSparseMistralConfig
    small = config_class(**{**given["config"], **WARM_UP, **HEADS, "head_dim": 8})
    train(small, {**given, "sequence_length": 16})
    before = psutil.Process().memory_info().rss
    train(config_class(**given["config"]), given)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)


def train(config, given) -> None:
    torch.manual_seed(0)
    model = our_class(config)(config).train()
    if given["activation_checkpointing"]:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    arguments = {"output_router_logits": True} if hasattr(config, "num_local_experts") else {}
    for _ in range(2):
        for _ in range(given["num_microbatches"]):
            shape = (given["microbatch_sequences"], given["sequence_length"])
            tokens = torch.randint(0, config.vocab_size, shape)
            output = model(input_ids=tokens, use_cache=False, **arguments)
            loss = model.loss_function(output.logits, tokens, vocab_size=config.vocab_size)
            if arguments:
                loss = loss + 0.02 * output.aux_loss
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


main()
