"""An exported folder stands on its own."""

import json
import subprocess
import sys

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM, MixtralConfig, MixtralForCausalLM

from turbosparse.data.chat import add_chat_template
from turbosparse.data.tokenizer import train_tokenizer
from turbosparse.errors import ArtifactError
from turbosparse.export.check import check_decoding, time_decoding
from turbosparse.export.huggingface import export_huggingface, reload_exported
from turbosparse.model.convert import with_predictors
from turbosparse.model.folder import as_turbosparse

SHAPE = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
PROMPT = torch.tensor([1, 17, 42, 5])
ELSEWHERE = """
import json, sys
sys.modules["turbosparse"] = None  # as on a machine without it
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)
prompt = torch.tensor([[1, 17, 42, 5]])
tokens = model.generate(prompt, attention_mask=torch.ones(1, 4), max_new_tokens=12, do_sample=False,
                        eos_token_id=None)
chat = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
print(json.dumps([tokens[0, 4:].tolist(), chat]))
"""


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = train_tokenizer(["some text to learn a few merges from, and some more"] * 9, 300)
    add_chat_template(tokenizer)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(params=["mistral", "mixtral"])
def model(request):
    torch.manual_seed(0)
    source = (
        MistralForCausalLM(MistralConfig(**SHAPE))
        if request.param == "mistral"
        else MixtralForCausalLM(MixtralConfig(**SHAPE, num_local_experts=4))
    )
    return with_predictors(as_turbosparse(source, "drelu"), rank=4, seed=0).eval()


def test_the_same_tokens_here_and_where_turbosparse_is_not_installed(model, tokenizer_folder, tmp_path):
    export_huggingface(model, tokenizer_folder, tmp_path / "out", "# card\n")
    reloaded = reload_exported(tmp_path / "out")
    assert type(reloaded) is type(model)
    check_decoding(model, reloaded, PROMPT, 12)
    expected = model.generate(
        PROMPT[None], attention_mask=torch.ones(1, 4), max_new_tokens=12, do_sample=False, eos_token_id=None
    )
    environment = {"HF_HOME": str(tmp_path / "cache"), "PATH": "", "TRANSFORMERS_VERBOSITY": "error"}
    found = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(tmp_path / "out")],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    tokens, chat = json.loads(found.stdout.splitlines()[-1])
    assert tokens == expected[0, 4:].tolist()
    assert "<|im_start|>user\nHi<|im_end|>" in chat


def test_generation_ends_with_the_text_or_the_turn(model, tokenizer_folder, tmp_path):
    export_huggingface(model, tokenizer_folder, tmp_path / "out", "# card\n")
    assert reload_exported(tmp_path / "out").generation_config.eos_token_id == [2, 301]


def test_a_changed_weight_is_found(model, tokenizer_folder, tmp_path):
    export_huggingface(model, tokenizer_folder, tmp_path / "out", "# card\n")
    reloaded = reload_exported(tmp_path / "out")
    with torch.no_grad():
        reloaded.lm_head.weight.copy_(reloaded.lm_head.weight.roll(1, dims=0))
    with pytest.raises(ArtifactError, match="exported model"):
        check_decoding(model, reloaded, PROMPT, 12)


def test_nothing_is_overwritten(model, tokenizer_folder, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="empty or new folder"):
        export_huggingface(model, tokenizer_folder, tmp_path, "# card\n")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_speed_is_a_ratio_of_two_measured_speeds(model):
    speed = time_decoding(model, PROMPT, 4)
    assert speed.dense_tokens_per_second > 0
    assert speed.exact_tokens_per_second > 0
    assert 0.01 < speed.ratio < 100
