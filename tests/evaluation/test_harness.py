"""The harness's figures on local tasks are those that a forward pass by hand gives."""

import json
import math
import random
import re

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from turbosparse.data.held_back import Document, read_documents
from turbosparse.data.tokenizer import train_tokenizer
from turbosparse.errors import DataError, ModelError
from turbosparse.evaluation import loading
from turbosparse.evaluation.harness import EvaluationOptions, evaluate_model
from turbosparse.evaluation.local_tasks import (
    MAX_CLOZE_ITEMS,
    MAX_TEXT_ITEMS,
    PASSAGE_WORDS,
    TEXT_CHARACTERS,
    make_local_task,
)
from turbosparse.evaluation.records import read_result, write_result

NOUN_LIST = "sailor garden engine library mountain teacher river window candle forest island machine"
NOUNS = NOUN_LIST.split()
VERB_LIST = "watched painted followed carried remembered repaired crossed borrowed"
VERBS = VERB_LIST.split()


def _prose(seed, num_sentences=12):
    """Sentences that come back to the same few things, as prose does."""
    choose = random.Random(seed)
    nouns = choose.sample(NOUNS, 4)
    sentences = (
        f"The {choose.choice(nouns)} {choose.choice(VERBS)} a {choose.choice(nouns)} near the "
        f"{choose.choice(nouns)}."
        for _ in range(num_sentences)
    )
    return " ".join(sentences)


CODE = "\n".join(f"x_{i} = f({i}, y[{i}]) ** 2  # {i}" for i in range(80))
DOCUMENTS = [
    *(Document("books", _prose(seed)) for seed in range(4)),
    *(Document("web", _prose(seed)) for seed in range(4, 6)),
    Document("code", CODE),
]


def _items(name, folder):
    make_local_task(name, DOCUMENTS, folder)
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rows = (json.dumps(vars(document)) + "\n" for document in DOCUMENTS)
    (folder / "held_back.jsonl").write_text("".join(rows))
    return folder


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([document.text for document in DOCUMENTS], 400)


@pytest.fixture(scope="module")
def model(tokenizer, tmp_path_factory):
    """A tiny model, in training mode, that has learnt the first passages by heart."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=448,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
    )
    model = LlamaForCausalLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    passages = _items("local_cloze", tmp_path_factory.mktemp("items"))[:3]
    learnt = [torch.tensor([tokenizer.encode(f"{p['context']} {p['target']}")]) for p in passages]
    for step in range(150):
        ids = learnt[step % 3]
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@pytest.fixture(scope="module")
def evaluated(model, tokenizer, data_folder):
    return evaluate_model(model, tokenizer, ["local_cloze", "local_text"], data_folder)


def _log_probs(model, ids):
    """[len(ids) - 1, vocab]: what each prefix of `ids` predicts next."""
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)


def test_text_figures_equal_those_by_hand(evaluated, model, tokenizer, tmp_path):
    total, num_words, num_bytes, num_tokens = 0.0, 0, 0, 0
    for item in _items("local_text", tmp_path):
        ids = tokenizer.encode(item["text"])
        assert ids[0] == tokenizer.bos_token_id
        total += _log_probs(model, ids).gather(1, torch.tensor(ids[1:])[:, None]).sum().item()
        num_words += len(re.split(r"\s+", item["text"]))
        num_bytes += len(item["text"].encode())
        num_tokens += len(ids) - 1
    figures = evaluated.results["local_text"]
    assert figures["word_perplexity"] == pytest.approx(math.exp(-total / num_words), rel=1e-4)
    assert figures["byte_perplexity"] == pytest.approx(math.exp(-total / num_bytes), rel=1e-4)
    assert figures["token_perplexity"] == pytest.approx(math.exp(-total / num_tokens), rel=1e-4)
    assert figures["bits_per_byte"] == pytest.approx(-total / num_bytes / math.log(2), rel=1e-4)


def test_cloze_figures_equal_those_by_hand(evaluated, model, tokenizer, tmp_path):
    greedy, log_likelihoods = [], []
    for item in _items("local_cloze", tmp_path):
        num_context = len(tokenizer.encode(item["context"]))
        ids = tokenizer.encode(f"{item['context']} {item['target']}")
        target, predicted = torch.tensor(ids[num_context:]), _log_probs(model, ids)[num_context - 1 :]
        greedy.append(int(torch.equal(predicted.argmax(-1), target)))
        log_likelihoods.append(predicted.gather(1, target[:, None]).sum().item())
    figures = evaluated.results["local_cloze"]
    assert 0 < figures["acc"] < 1, "a model that is always right or wrong would prove little"
    assert figures["acc"] == pytest.approx(sum(greedy) / len(greedy))
    assert [record.metrics["acc"] for record in _records(evaluated, "local_cloze")] == greedy
    mean = sum(log_likelihoods) / len(log_likelihoods)
    assert figures["perplexity"] == pytest.approx(math.exp(-mean), rel=1e-4)
    assert {"acc_stderr", "perplexity_stderr"} < figures.keys()
    low, high = evaluated.intervals["local_cloze"]["acc"]
    assert low < figures["acc"] < high
    assert high - low == pytest.approx(2 * 1.96 * figures["acc_stderr"], rel=1e-4)


def _records(evaluated, task):
    return [record for record in evaluated.records if record.task == task]


def test_records_and_counts_tell_items_apart(evaluated, tmp_path):
    items = _items("local_cloze", tmp_path)
    records = _records(evaluated, "local_cloze")
    assert evaluated.num_items["local_cloze"] == len(items) == len(records)
    assert [record.target for record in records] == [item["target"] for item in items]
    assert [record.doc_id for record in records] == list(range(len(items)))
    assert len({record.doc_hash for record in records}) == len(items)
    assert all(len(record.log_likelihoods) == 1 for record in records)
    texts = _records(evaluated, "local_text")
    assert all(record.sizes.keys() == {"words", "bytes", "tokens"} for record in texts)
    assert evaluated.num_too_long == {"local_cloze": 0, "local_text": 0}


def test_a_result_is_read_back_as_it_was_written(evaluated, tmp_path):
    assert [path.name for path in write_result(evaluated, tmp_path)] == ["results.json", "items.jsonl"]
    assert read_result(tmp_path) == evaluated
    (tmp_path / "items.jsonl").unlink()
    with pytest.raises(DataError, match=r"items\.jsonl"):
        read_result(tmp_path)


def test_limit_progress_and_a_clean_standard_output(model, tokenizer, data_folder, capfd):
    heard = []
    tasks = ["local_cloze", "local_text"]
    one_at_a_time = EvaluationOptions(max_batch_tokens=1)
    limited = evaluate_model(model, tokenizer, tasks, data_folder, 2, heard.append, one_at_a_time)
    assert limited.num_items == {"local_cloze": 2, "local_text": 2}
    assert [(progress.completed, progress.total) for progress in heard] == [(1, 2), (2, 2)] * 2
    assert capfd.readouterr().out == "", "standard output is for the caller's JSON"
    assert model.training


@pytest.mark.parametrize(
    ("tasks", "folder", "message"),
    [
        (["local_text"], None, "held_back.jsonl"),
        (["local_text"], "nowhere", "held-back documents"),
        ([], None, "at least one task"),
        (
            ["local_cloze", "lambada_openay"],
            "",
            r"'lambada_openay'.*local_cloze, local_text, .*lambada_openai",
        ),
    ],
    ids=["no folder", "no file", "no task", "unknown task"],
)
def test_wrong_request_names_what_is_wrong(model, tokenizer, data_folder, tasks, folder, message):
    with pytest.raises(DataError, match=message):
        evaluate_model(model, tokenizer, tasks, None if folder is None else data_folder / folder)


def test_task_of_the_hub_without_network_is_named():
    class Unreachable:
        def load(self, tasks):
            raise ConnectionError("Couldn't reach the Hub")

    with pytest.raises(DataError, match=r"'arc_easy'.*Couldn't reach the Hub.*data folder"):
        loading._build(Unreachable(), "arc_easy", loading.Sources())


@pytest.mark.parametrize("task", ["local_text", "local_cloze"])
def test_a_model_that_gives_no_numbers_is_named_with_the_item(model, tokenizer, data_folder, task):
    broken = LlamaForCausalLM(model.config)
    with torch.no_grad():
        broken.lm_head.weight.fill_(math.nan)
    with pytest.raises(ModelError, match=rf"{task}, log-likelihood of item 0.*finite number"):
        evaluate_model(broken, tokenizer, [task], data_folder)


def test_cloze_items_are_prose_that_names_its_target_before(tmp_path):
    items = _items("local_cloze", tmp_path)
    assert len(items) >= 6
    for item in items:
        words = item["context"].split()
        assert PASSAGE_WORDS[0] - 1 <= len(words) < PASSAGE_WORDS[1]
        assert item["target"] in re.findall(r"\b[a-z]{4,}\b", item["context"])
        assert "x_1" not in item["context"]
    assert items[0]["context"] in DOCUMENTS[0].text
    assert items[1]["context"] in DOCUMENTS[4].text, "sources take turns"


def test_items_are_bounded_and_texts_cut_at_a_word(tmp_path):
    many = [Document(f"source {n % 3}", _prose(n, 60)) for n in range(100)]
    for name, most in (("local_cloze", MAX_CLOZE_ITEMS), ("local_text", MAX_TEXT_ITEMS)):
        make_local_task(name, many, tmp_path)
        assert len((tmp_path / f"{name}.jsonl").read_text().splitlines()) == most
    for line, document in zip((tmp_path / "local_text.jsonl").read_text().splitlines(), many, strict=False):
        text = json.loads(line)["text"]
        assert TEXT_CHARACTERS[1] - 20 < len(text) <= TEXT_CHARACTERS[1]
        assert document.text.startswith(text) and document.text[len(text)] == " "


def test_documents_of_which_nothing_can_be_made(tmp_path):
    with pytest.raises(DataError, match="items for local_cloze"):
        make_local_task("local_cloze", [Document("code", CODE)], tmp_path)
    with pytest.raises(DataError, match="items for local_text"):
        make_local_task("local_text", [Document("web", "too short")], tmp_path)
    path = tmp_path / "held_back.jsonl"
    path.write_text('{"source": "a", "text": "b\u2028c"}\n{"text": "b"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"held_back.jsonl, line 2"):
        read_documents(path)
