"""Contamination: evaluation items are found in whatever disguise, other text is left alone."""

import json
import pickle
import random
from pathlib import Path

import pytest

from turbosparse.data.cleaning.contamination import Contamination
from turbosparse.data.cleaning.evaluation_texts import (
    digest_of_texts,
    evaluation_texts,
    hub_evaluation_texts,
    item_texts,
)
from turbosparse.data.cleaning.words import word_hashes
from turbosparse.errors import DataError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
SHORT = "a b c d e f g h"


def words_of(text: str, first: int, last: int) -> str:
    return " ".join(text.split()[first:last])


def task_in(contamination: Contamination, text: str) -> str | None:
    return contamination.task_in(word_hashes(text))


@pytest.fixture
def contamination() -> Contamination:
    return Contamination({"letters": [SHORT, "too few words"], "numbers": [LONG, words_of(LONG, 0, 7)]})


@pytest.mark.parametrize("first", [0, 1, 2])
def test_thirteen_words_of_a_long_item_are_found_anywhere(contamination, first):
    piece = words_of(LONG, first, first + 13)
    for text in (piece, f"Before {piece}", f"{piece} after", f"before {piece} after"):
        assert task_in(contamination, text) == "numbers"


def test_twelve_words_of_a_long_item_are_not_enough(contamination):
    assert task_in(contamination, f"{words_of(LONG, 0, 12)} other {words_of(LONG, 3, 15)}") is None


def test_a_short_item_must_occur_whole(contamination):
    assert task_in(contamination, f"x {SHORT} y") == "letters"
    assert task_in(contamination, f"{words_of(SHORT, 0, 7)} x {words_of(SHORT, 1, 8)}") is None


def test_order_counts(contamination):
    assert task_in(contamination, " ".join(reversed(LONG.split()))) is None


def test_items_too_short_are_counted_and_match_nothing(contamination):
    assert contamination.num_too_short == {"letters": 1, "numbers": 1}
    assert task_in(contamination, "too few words") is None


@pytest.mark.parametrize("text", ["", "one", SHORT[:9]])
def test_documents_shorter_than_any_item(contamination, text):
    assert task_in(contamination, text) is None


@pytest.mark.parametrize(("one", "other"), [(LONG, SHORT), (SHORT, LONG)])
def test_the_first_task_is_named(one, other):
    contamination = Contamination({"first": [one], "second": [other, one]})
    assert task_in(contamination, f"{other} {one}") == "first"
    assert task_in(contamination, one) == "first"
    assert task_in(contamination, other) == "second"


def test_without_evaluation_texts_nothing_is_contaminated():
    assert task_in(Contamination({"empty": []}), LONG) is None


def test_it_is_the_same_in_another_process_and_from_disk(contamination, tmp_path):
    contamination.save(tmp_path / "ngrams.npz")
    for copy in (pickle.loads(pickle.dumps(contamination)), Contamination.load(tmp_path / "ngrams.npz")):
        assert copy.digest == contamination.digest
        assert copy.num_too_short == contamination.num_too_short
        assert [task_in(copy, text) for text in (LONG, SHORT, "x " * 20)] == ["numbers", "letters", None]


def test_digests_tell_texts_tasks_and_sizes_apart():
    texts = {"a": ["x", "y"], "b": []}
    assert digest_of_texts(texts) == digest_of_texts({"a": ["x", "y"], "b": []})
    others = [{"a": ["x"], "b": ["y"]}, {"a": ["xy"], "b": []}, {"b": [], "a": ["x", "y"]}, {"a": ["x", "y"]}]
    assert len({digest_of_texts(other) for other in [texts, *others]}) == 5
    assert Contamination(texts).digest != Contamination(texts, min_words=9).digest


def test_texts_of_an_item():
    item = {
        "id": "Mercury_1",
        "question": "Why?",
        "choices": {"text": ["Because", "No reason"], "label": ["A", "B"]},
        "answerKey": "A",
        "source": "https://a.page",
        "number": 3,
    }
    assert set(item_texts(item)) == {"Why?", "Because", "No reason", "Why? Because", "Why? No reason"}


def test_blanks_are_filled_with_both_options():
    item = {"sentence": "The _ is red.", "option1": "car", "option2": "bus", "answer": "1"}
    assert {"The car is red.", "The bus is red."} <= set(item_texts(item))


def test_calculator_notes_are_kept_and_left_out():
    found = set(item_texts({"question": "How many?", "answer": "6*6=<<6*6=36>>36 in all"}))
    assert {"6*6=<<6*6=36>>36 in all", "6*6=36 in all", "How many? 6*6=36 in all"} <= found


def test_training_rows_and_other_files_are_no_evaluation_items(tmp_path):
    for name in ("b.jsonl", "a_test.jsonl", "a_train_fewshot.jsonl", "c_fewshot_dev.jsonl", "notes.txt"):
        (tmp_path / name).write_text(json.dumps({"text": name}) + "\n" + json.dumps({"text": " "}) + "\n")
    assert evaluation_texts(tmp_path) == {"a_test": ["a_test.jsonl"], "b": ["b.jsonl"]}


def test_bad_folders_and_rows_are_named(tmp_path):
    with pytest.raises(DataError, match="hub's fields"):
        evaluation_texts(tmp_path / "nowhere")
    (tmp_path / "task.jsonl").write_text('{"text": "fine"}\n["a list"]\n')
    with pytest.raises(DataError, match=r"task\.jsonl, line 2"):
        evaluation_texts(tmp_path)


def test_the_hub_out_of_reach_is_an_error():
    with pytest.raises(DataError, match="evaluation set"):
        hub_evaluation_texts()


@pytest.fixture(scope="module")
def real_contamination() -> Contamination:
    if not (SHARED / "eval").is_dir():
        pytest.skip("needs the evaluation sets")
    return Contamination(evaluation_texts(SHARED / "eval"))


def read(file: Path, field: str) -> list[str]:
    if not file.is_file():
        pytest.skip(f"needs {file.name}")
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line)[field] for line in lines]


def disguised(text: str, rng: random.Random) -> str:
    """Returns the text in other case, with other line breaks and punctuation."""
    words = text.replace("’", "'").replace(". ", " ; ").upper().split()
    return "".join(word + rng.choice([" ", "\n", "  ", " — "]) for word in words)


def test_every_planted_gsm8k_item_is_found_and_no_real_document_without_one(real_contamination):
    questions = read(SHARED / "eval" / "gsm8k_test.jsonl", "question")
    pages = [text.split() for text in read(SHARED / "corpora" / "web_c4.jsonl", "text")]
    rng = random.Random(5)
    for number, question in enumerate(questions):
        page = pages[number % len(pages)]
        place = rng.randrange(len(page))
        planted = " ".join([*page[:place], disguised(question, rng), *page[place:]])
        assert (task_in(real_contamination, planted) == "gsm8k_test") == (len(word_hashes(question)) >= 8)
    assert [page for page in pages if task_in(real_contamination, " ".join(page))] == []


@pytest.mark.parametrize(
    "name", ["tinystories", "books_gutenberg", "academic_abstracts_s2orc", "wikipedia", "web_sites"]
)
def test_real_corpora_are_not_taken_for_evaluation_items(real_contamination, name):
    texts = read(SHARED / "corpora" / f"{name}.jsonl", "text")
    assert [text[:80] for text in texts if task_in(real_contamination, text)] == []
