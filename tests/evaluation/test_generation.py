"""Continuations end at their own stop strings, and are the same however they are batched and decoded."""

import math

import pytest
import torch

from turbosparse.data.tokenizer import train_tokenizer
from turbosparse.errors import DataError, ModelError
from turbosparse.evaluation.generation import Prompt, generate
from turbosparse.evaluation.ranks import ALONE
from turbosparse.model.configuration import TurboSparseMistralConfig
from turbosparse.model.mistral import TurboSparseMistralForCausalLM

TEXTS = ["the cat sat on the mat.", "a dog", "one two three four five six seven eight nine", "Q: why?\nA:"]
OPTIONS = {"until": ["Q:"], "do_sample": False, "max_gen_toks": 12}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 300)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(3)
    config = TurboSparseMistralConfig(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        activation="drelu",
        eos_token_id=2,
    )
    return TurboSparseMistralForCausalLM(config).eval()


def prompts(tokenizer, options=OPTIONS):
    return [Prompt.of(tokenizer(text)["input_ids"], options, 128, 256, tokenizer) for text in TEXTS]


def continued(model, tokenizer, wanted, mode="dense", heard=None):
    report = (lambda num_more: None) if heard is None else heard.append
    return generate(model, tokenizer, wanted, mode, report, ALONE)


def test_dense_and_sparse_decoding_of_a_batch_equal_each_prompt_alone(model, tokenizer):
    wanted, heard = prompts(tokenizer), []
    together = continued(model, tokenizer, wanted, heard=heard)
    assert sum(heard) == len(wanted)
    assert together == [continued(model, tokenizer, [prompt])[0] for prompt in wanted]
    assert together == continued(model, tokenizer, wanted, "exact")
    assert len(set(together)) > 1


@pytest.mark.parametrize("mode", ["dense", "exact"])
def test_text_ends_before_its_first_stop_string(model, tokenizer, mode):
    plain = continued(model, tokenizer, prompts(tokenizer))
    stop = plain[0][3:5]
    stopped = continued(model, tokenizer, prompts(tokenizer, OPTIONS | {"until": [stop]}), mode)
    assert stopped == [text.split(stop)[0] for text in plain]


def test_prompts_leave_room_for_what_is_generated(tokenizer):
    ids = list(range(3, 203))
    assert Prompt.of(ids, OPTIONS, 128, 256, tokenizer).ids == ids[-116:]
    with pytest.raises(ModelError, match="context: 12"):
        Prompt.of(ids, OPTIONS, 12, 256, tokenizer)
    with pytest.raises(DataError, match="do_sample"):
        Prompt.of(ids, OPTIONS | {"do_sample": True, "temperature": 1.0}, 128, 256, tokenizer)


@pytest.mark.parametrize("mode", ["dense", "exact"])
def test_a_model_that_gives_no_numbers_is_named(model, tokenizer, mode):
    broken = TurboSparseMistralForCausalLM(model.config).eval()
    with torch.no_grad():
        broken.lm_head.weight.fill_(math.nan)
    with pytest.raises(ModelError, match=r"logits.*finite"):
        continued(broken, tokenizer, prompts(tokenizer), mode)
