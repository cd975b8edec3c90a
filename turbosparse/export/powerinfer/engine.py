"""An exported file, decoded by a PowerInfer that was built elsewhere, against our own model."""

import math
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from turbosparse.analysis.text import read_texts
from turbosparse.data.tokenizer import load_tokenizer
from turbosparse.errors import ArtifactError, ConfigError, DataError
from turbosparse.export.powerinfer.contract import Quantization, engine_thresholds
from turbosparse.export.powerinfer.model import DENSE_FILE, SPARSE_FILE, write_model
from turbosparse.export.powerinfer.tensors import round_weights
from turbosparse.export.powerinfer.vocabulary import engine_vocabulary
from turbosparse.model.folder import load_model
from turbosparse.predictors.masks import predicted_only

CONTEXT_TOKENS = 512
NUM_WINDOWS = 8
KEEP_ALL_THRESHOLD = -1e9
KEEP_ALL_TOLERANCE: dict[Quantization, float] = {"f16": 1e-3, "q4_0": 0.05}
"""Relative. In Q4_0 the dense file's down projection is quantised along its other side."""
OUR_TOLERANCE: dict[Quantization, float] = {"f16": 0.01, "q4_0": 0.05}
"""Relative, to our model with the file's weights: the engine rounds activations too, to F16 or 8 bits."""


@dataclass(frozen=True)
class EngineCheck:
    """Perplexities over the second half of each window, as PowerInfer measures them."""

    num_tokens: int
    engine_dense: float
    engine_keep_all: float
    """Sparse mode with a threshold that keeps every neuron."""
    engine_predicted: float
    our_dense: float
    """Our model with the file's weights, fp32."""
    our_predicted: float
    unrounded_predicted: float
    """Our model with its own weights: what the file's encoding costs."""


def check_with_engine(
    engine: Path, source: Path, folder: Path, quantization: Quantization, text: Path
) -> EngineCheck:
    """Has the engine decode `folder`'s sparse file, and compares with its dense mode and with our model.

    Args:
        engine: PowerInfer's build folder, or its `perplexity` program.
        source: The model folder that was exported.
        folder: Where SPARSE_FILE is.
        quantization: The file's.
        text: A text file, or JSONL with a text field.

    Raises:
        ConfigError: There is no such program.
        DataError: The text is too short.
        ArtifactError: The engine fails, or what it decodes is not the model.
    """
    program = find_program(engine)
    model, tokenizer = load_model(source).float(), load_tokenizer(source)
    context = min(CONTEXT_TOKENS, model.config.max_position_embeddings)
    # Only before text in a vocabulary of SentencePiece's kind does the engine put BOS.
    puts_bos = engine_vocabulary(tokenizer, model.config.vocab_size).kind == "llama"
    excerpt, windows = _excerpt(tokenizer, text, context, puts_bos)
    with tempfile.TemporaryDirectory() as scratch:
        file, dense, sparse = Path(scratch) / "text.txt", Path(scratch) / DENSE_FILE, folder / SPARSE_FILE
        file.write_text(excerpt, encoding="utf-8")
        write_model(source, Path(scratch), quantization, is_sparse=False)
        theirs = {
            "engine_dense": engine_perplexity(program, dense, file, context),
            "engine_keep_all": engine_perplexity(program, sparse, file, context, KEEP_ALL_THRESHOLD),
            "engine_predicted": engine_perplexity(program, sparse, file, context),
        }
    found = EngineCheck(num_tokens=windows.numel(), **theirs, **_our_figures(model, windows, quantization))
    _compare_all(found, quantization)
    return found


def find_program(engine: Path) -> Path:
    """Returns the `perplexity` program at or below `engine`.

    Raises:
        ConfigError: There is none.
    """
    for path in (
        engine,
        engine / "perplexity",
        engine / "bin" / "perplexity",
        engine / "build" / "bin" / "perplexity",
    ):
        if path.is_file() and os.access(path, os.X_OK):
            return path.resolve()
    remedy = "build PowerInfer with cmake --build build --target perplexity"
    raise ConfigError("--engine", str(engine), "a PowerInfer build folder with bin/perplexity", remedy)


def engine_perplexity(
    program: Path, model: Path, text: Path, context_tokens: int, threshold: float | None = None
) -> float:
    """Returns the perplexity that PowerInfer measures; `threshold` replaces the file's.

    Raises:
        ArtifactError: It fails, or prints none.
    """
    # One thread: with more, the order in which partial sums are added changes the fourth digit.
    command = [str(program), "-m", str(model.resolve()), "-f", str(text), "-c", str(context_tokens)]
    command += ["-t", "1", "--chunks", str(NUM_WINDOWS)]
    environment = {"PATH": os.environ.get("PATH", "")}
    if threshold is not None:
        environment["LLAMA_SPARSE_PRED_THRESHOLD"] = str(threshold)
    # It leaves a log where it runs.
    done = subprocess.run(
        command, env=environment, cwd=text.parent, capture_output=True, text=True, check=False
    )
    found = re.search(r"Final estimate: PPL = ([0-9.]+)", done.stdout)
    if done.returncode or found is None:
        last = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        remedy = "see that this PowerInfer is of commit d3ebd7c or near it"
        raise ArtifactError("--engine", f"status {done.returncode}, {last}", "a perplexity", remedy)
    return float(found.group(1))


@torch.inference_mode()
def window_perplexity(model: PreTrainedModel, windows: Tensor) -> float:
    """Returns the model's perplexity over the second half of each window [windows, tokens]."""
    first = windows.shape[1] // 2
    losses = [
        cross_entropy(model(input_ids=window[None]).logits[0, first:-1].float(), window[first + 1 :]).item()
        for window in windows
    ]
    return math.exp(sum(losses) / len(losses))


def predicted_perplexity(model: PreTrainedModel, windows: Tensor) -> float:
    """Returns the same with each FFN's neurons that its predictor leaves out set to zero."""
    with predicted_only(model, dict(enumerate(engine_thresholds(model.config)))):
        return window_perplexity(model, windows)


def _our_figures(model: PreTrainedModel, windows: Tensor, quantization: Quantization) -> dict[str, float]:
    unrounded_predicted = predicted_perplexity(model, windows)
    round_weights(model, quantization)
    return {
        "our_dense": window_perplexity(model, windows),
        "our_predicted": predicted_perplexity(model, windows),
        "unrounded_predicted": unrounded_predicted,
    }


def _excerpt(
    tokenizer: PreTrainedTokenizerFast, text: Path, context_tokens: int, puts_bos: bool
) -> tuple[str, Tensor]:
    """Returns a text's start in single blanks, and its windows [windows, tokens] as the engine cuts them."""
    pieces, num_tokens = [], 0
    for piece in read_texts(text):
        # The engine cuts runs of blanks otherwise than GPT-2 before signs: the check is of the model.
        pieces.append(" ".join(piece.split()))
        num_tokens += len(_encode(tokenizer, pieces[-1]))
        if num_tokens > (NUM_WINDOWS + 1) * context_tokens:
            break
    excerpt = " ".join(pieces)
    ids = torch.tensor([tokenizer.bos_token_id] * puts_bos + _encode(tokenizer, excerpt))
    num_windows = min(NUM_WINDOWS, len(ids) // context_tokens)
    if num_windows < 2:
        expected = f"text of at least {2 * context_tokens} tokens"
        raise DataError("--engine-text", f"{len(ids)} tokens", expected, "give a longer text")
    windows = ids[: num_windows * context_tokens].view(num_windows, context_tokens)
    if puts_bos:
        windows[:, 0] = tokenizer.bos_token_id
    return excerpt, windows


def _encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def _compare_all(found: EngineCheck, quantization: Quantization) -> None:
    of_modes, of_ours = KEEP_ALL_TOLERANCE[quantization], OUR_TOLERANCE[quantization]
    pairs = (
        ("keep-all perplexity", found.engine_keep_all, found.engine_dense, of_modes),
        ("perplexity without predictors", found.engine_keep_all, found.our_dense, of_ours),
        ("perplexity with predictors", found.engine_predicted, found.our_predicted, of_ours),
    )
    for name, value, expected, tolerance in pairs:
        if not abs(value - expected) <= tolerance * expected:
            remedy = "report this: PowerInfer does not decode the model that was exported"
            raise ArtifactError(name, value, f"{expected:.4f} within {tolerance:.1%}", remedy)
