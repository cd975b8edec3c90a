"""Table 2: training loss and perplexity of the study's SwiGLU and dReLU models."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from turbosparse.analysis.activity import ActivityCounter, mean
from turbosparse.analysis.taps import tapped
from turbosparse.analysis.text import check_windows, iterate_windows, read_texts
from turbosparse.analysis.topk import Perplexity, measure_perplexity
from turbosparse.data.held_back import read_documents
from turbosparse.data.layout import HELD_BACK_NAME
from turbosparse.reproduce.common import (
    WINDOW_TOKENS,
    LoadedModel,
    Reproduction,
    Request,
    percent,
    perplexity_windows,
)
from turbosparse.reproduce.study import Arm, describe_scale, loaded_arms, trained_arms

PAPER = {
    # Table 3's first column: the same models, nothing masked.
    "wikitext2_perplexity": {"SwiGLU": 28.48, "dReLU": 28.45},
    "training_loss": "SwiGLU's is lower (Section 3.2)",
}


def reproduce(request: Request) -> Reproduction:
    """Trains both arms, or finds them, and measures them on held-back documents and the request's text.

    Raises:
        TurboSparseError: The study can't run as requested.
        TrainingError: A training process failed.

    Reference: Table 2 and Section 3.2 of the paper.
    """
    if request.text is not None:
        read_texts(request.text)  # a missing file is found before hours of training
    arms = trained_arms(request)
    measured = {arm.label: _measure(request, arm, loaded) for arm, loaded in loaded_arms(request, arms)}
    text = request.text.name if request.text else "WikiText-2"
    return Reproduction(
        name="table2",
        title="Table 2: SwiGLU and dReLU trained alike",
        header=[
            "model",
            "training loss, nats per token",
            "held-back perplexity per token",
            f"{text} perplexity per token",
            "per word",
            "counting not stated",
            "zero activations",
        ],
        rows=[_row(label, figures) for label, figures in measured.items()] + _paper_rows(),
        measured=measured,
        paper=PAPER,
        notes=[describe_scale(request, arms[0]), *_notes(arms[0])],
    )


def held_back_windows(
    tokenizer: Any, texts: Sequence[str], window_tokens: int, num_tokens: int
) -> list[Tensor]:
    """Returns the beginning of every text as windows of token ids, each text with the same allowance.

    Raises:
        DataError: The texts hold no token.
    """
    allowance = max(2, num_tokens // max(1, len(texts)))
    windows = [
        window for text in texts for window in iterate_windows(tokenizer, [text], window_tokens, allowance)
    ]
    check_windows(windows)
    return windows


def count_words(tokenizer: Any, windows: Iterable[Tensor]) -> int:
    """Returns the words, split at white space, of joined windows without their BOS."""
    ids = torch.cat([window[1:] for window in windows])
    return len(tokenizer.decode(ids.tolist()).split())


def word_perplexity(found: Perplexity, num_words: int) -> float:
    """Returns exp of the loss per word: it does not depend on how the tokenizer cuts words."""
    return math.exp(math.log(found.perplexity) * found.num_predicted_tokens / num_words)


def _measure(request: Request, arm: Arm, loaded: LoadedModel) -> dict[str, Any]:
    documents = read_documents(arm.corpus.folder() / HELD_BACK_NAME)
    texts = [document.text for document in documents]
    windows = held_back_windows(loaded.tokenizer, texts, loaded.window_tokens, request.num_tokens)
    counter = ActivityCounter(loaded.model.config)
    with tapped(loaded.model, counter):
        held_back = measure_perplexity(loaded.model, windows)
    return {
        **arm.as_json(),
        "held_back_perplexity": held_back.perplexity,
        "num_held_back_tokens": held_back.num_predicted_tokens,
        "zero_activation_ratio": mean(counter.layers(), "zero_activation_ratio"),
        "window_tokens": loaded.window_tokens,
        **_measure_text(request, loaded),
    }


def _measure_text(request: Request, loaded: LoadedModel) -> dict[str, Any]:
    if request.text is None:
        return {"text": None, "why": "no text was given (--text FILE)"}
    windows = perplexity_windows(request, loaded)
    found = measure_perplexity(loaded.model, windows)
    num_words = count_words(loaded.tokenizer, windows)
    return {
        "text": {
            "name": request.text.name,
            "token_perplexity": found.perplexity,
            "word_perplexity": word_perplexity(found, num_words),
            "num_predicted_tokens": found.num_predicted_tokens,
            "num_words": num_words,
        }
    }


def _row(label: str, figures: dict[str, Any]) -> list[str]:
    text = figures["text"]
    kinds = ("token_perplexity", "word_perplexity")
    cells = [f"{text[kind]:,.2f}" for kind in kinds] if text else ["not measured"] * len(kinds)
    return [
        label,
        f"{figures['training_loss']:.3f}",
        f"{figures['held_back_perplexity']:,.2f}",
        *cells,
        "–",
        percent(figures["zero_activation_ratio"]),
    ]


def _paper_rows() -> list[list[str]]:
    perplexities = PAPER["wikitext2_perplexity"]
    assert isinstance(perplexities, dict)
    return [
        [f"paper: {label}", "not in the text", "–", "–", "–", f"{perplexity:.2f}", "–"]
        for label, perplexity in perplexities.items()
    ]


def _notes(arm: Arm) -> list[str]:
    return [
        "Training loss is the mean over the last tenth of the steps. Zero activations are counted on the "
        "held-back documents, mean over layers.",
        "Held-back perplexity: the beginning of every document that the corpus keeps back, each with the "
        "same allowance of tokens. Sources count by their held-back documents, not by their share of the "
        "mixture.",
        "The file's rows are joined by line breaks and cut into windows of "
        f"{min(WINDOW_TOKENS, arm.sequence_length):,} tokens at the most, beginning of text before each. Per "
        "word: the same loss over words between white space.",
        "Table 2's own figures are not in the text: the perplexities are Table 3's, of the same models with "
        "nothing masked, on WikiText-2; whether per token or per word is not said. The paper says that "
        "SwiGLU's training loss is lower and dReLU's perplexity is lower.",
    ]
