"""How often each neuron is active on a text: what PowerInfer divides neurons by."""

from pathlib import Path

from torch import Tensor

from turbosparse.analysis.statistics import AnalysisPlan, analyse
from turbosparse.analysis.text import iterate_windows, read_texts
from turbosparse.data.tokenizer import load_tokenizer
from turbosparse.export.tensor_files import save_tensors
from turbosparse.model.folder import load_model

WINDOW_TOKENS = 1_024
ACTIVATION_FOLDER = "activation"
"""Where the engine looks beside the model's file when it makes an index itself."""


def count_activations(source: Path, text: Path, num_tokens: int) -> list[Tensor]:
    """Returns how many tokens activate each neuron of each layer: [intermediate], int64.

    Loads the whole model.

    Args:
        source: A dense model folder.
        text: A text file, or JSONL with a text field.
        num_tokens: Tokens to run at the most; Bamboo's authors took about a million.

    Raises:
        DataError: The text can't be read, or holds no token.
    """
    model, tokenizer = load_model(source), load_tokenizer(source)
    window = min(WINDOW_TOKENS, model.config.max_position_embeddings)
    windows = iterate_windows(tokenizer, read_texts(text), window, num_tokens)
    analysis = analyse(model, windows, AnalysisPlan(other_thresholds=(), with_histograms=False))
    counts = analysis.neuron_counts()
    return [counts[f"activation_{layer}"] for layer in range(model.config.num_hidden_layers)]


def write_activations(counts: list[Tensor], folder: Path) -> None:
    """Writes `folder`/activation/activation_{layer}.pt, as PowerInfer's own tools read them."""
    (folder / ACTIVATION_FOLDER).mkdir()
    for layer, values in enumerate(counts):
        save_tensors(values, folder / ACTIVATION_FOLDER / f"activation_{layer}.pt")
