"""Evaluation items of any content: a figure, or a message that names the row."""

import json
from pathlib import Path

import pytest
from hypothesis import strategies as st
from mutations import fuzzed, mutated_bytes, mutated_trees, success_or_refusal

from turbosparse.config import ModelConfig
from turbosparse.data.tokenizer import train_tokenizer
from turbosparse.evaluation.harness import evaluate_model
from turbosparse.model.convert import initial_model

CHOICES = {"text": ["an owl", "a fox"], "label": ["A", "B"]}
TARGETS = {"choices": ["an owl", "a fox"], "labels": [1, 0]}
ITEMS = {
    "arc_easy": {"question": "Who sees it?", "choices": CHOICES, "answerKey": "A"},
    "piqa": {"goal": "See it.", "sol1": "Look.", "sol2": "Sleep.", "label": 0},
    "hellaswag": {
        **{"ctx_a": "An owl sits.", "ctx_b": "it", "activity_label": "Owls", "label": "1"},
        "endings": ["flies.", "reads.", "swims.", "barks."],
    },
    "boolq": {"passage": "Owls fly.", "question": "do owls fly", "answer": True},
    "winogrande": {
        "sentence": "The owl saw the fox as _ flew.",
        "option1": "owl",
        "option2": "fox",
        "answer": "1",
    },
    "truthfulqa_mc2": {"question": "Who flies?", "mc2_targets": TARGETS},
    "lambada_openai": {"text": "The old owl sees a red fox"},
    "wikitext": {"page": "= Owls =\nThe old owl sees a red fox at noon.\n"},
}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["The old owl sees a red fox at noon."] * 4, 300)


@pytest.fixture(scope="module")
def model(tokenizer):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1}
    return initial_model(ModelConfig(**sizes, context_length=128), tokenizer, "drelu").eval()


@pytest.mark.slow
@pytest.mark.parametrize("task", ITEMS)
@fuzzed(st.data(), share=0.15)
def test_items_of_other_values(tmp_path_factory, model, tokenizer, task, data):
    folder: Path = tmp_path_factory.mktemp("items")
    rows = [data.draw(mutated_trees(ITEMS[task])), ITEMS[task]]
    content = "\n".join(map(json.dumps, rows)).encode()
    (folder / f"{task}.jsonl").write_bytes(data.draw(st.just(content) | mutated_bytes(content)))
    with success_or_refusal():
        found = evaluate_model(model, tokenizer, [task], folder, None)
        json.dumps(found.results, allow_nan=False)
