"""What the commands on model folders do. Imported when one of them runs: transformers is slow."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from turbosparse.analysis.loading import load_for_analysis
from turbosparse.analysis.report import report_analysis
from turbosparse.analysis.statistics import AnalysisPlan, analyse
from turbosparse.analysis.text import iterate_windows, read_texts
from turbosparse.config import Activation
from turbosparse.data.tokenizer import load_tokenizer
from turbosparse.errors import DataError
from turbosparse.export.huggingface import check_target, copy_tokenizer, stop_tokens
from turbosparse.inference.choosing import Sampling
from turbosparse.inference.decode import report_decoding
from turbosparse.inference.decoder import GREEDY, Decoder
from turbosparse.inference.ffn import Mode
from turbosparse.inference.quantize import Quantization
from turbosparse.model.convert import check_convertible, convert_model
from turbosparse.model.device import on_best_device
from turbosparse.model.folder import load_model

SPARSITY_WINDOW_TOKENS = 1_024


def convert_folder(source: str, target: Path, activation: Activation) -> dict[str, Any]:
    """Converts a model folder and, if it has one, carries its tokenizer along."""
    check_convertible(source)
    check_target(target)
    converted = convert_model(source, target, activation)
    copy_tokenizer(Path(source), target)
    return {"model": str(target), "activation": activation, "num_parameters": converted.num_parameters}


def measure_folder(model_folder: str, text: Path, num_tokens: int, plots: Path | None) -> dict[str, Any]:
    """Measures what FFNs do by layer and expert, predictors if there are any, and activated parameters."""
    texts = read_texts(text)
    model, tokenizer = load_for_analysis(model_folder), load_tokenizer(model_folder)
    window = min(SPARSITY_WINDOW_TOKENS, model.config.max_position_embeddings)
    windows = iterate_windows(tokenizer, texts, window, num_tokens)
    analysis = analyse(model, windows, AnalysisPlan(with_histograms=plots is not None))
    report = report_analysis(model, analysis)
    if plots is not None:
        from turbosparse.reports.activation_plots import write_analysis  # noqa: PLC0415 - matplotlib, slow

        report["plots"] = [str(path) for path in write_analysis(analysis, plots)]
    return report


@dataclass(frozen=True)
class Generation:
    """How `generate` decodes."""

    mode: Mode = "dense"
    num_tokens: int = 64
    chat: bool = False
    """Whether the prompt is wrapped in the chat template."""
    sampling: Sampling = GREEDY
    quantization: Quantization = "none"
    num_threads: int | None = None
    """None: torch's own choice."""


def generate_text(model_folder: str, prompt: str, wanted: Generation) -> None:
    """Prints the continuation of a prompt as it is decoded, and what decoding read to standard error."""
    if wanted.num_threads is not None:
        torch.set_num_threads(wanted.num_threads)
    model, tokenizer = on_best_device(load_model(model_folder)), load_tokenizer(model_folder)
    ids = torch.tensor(_prompt_ids(tokenizer, prompt, wanted.chat))
    decoder = Decoder(model, wanted.mode, wanted.quantization)
    stream = decoder.stream([ids], wanted.num_tokens, wanted.sampling, stop_tokens(tokenizer))
    tokens: list[int] = []
    shown, started = "", time.perf_counter()
    for (token,) in stream:
        # The first token is the prefill's: speed counts from there.
        started = time.perf_counter() if not tokens else started
        tokens.append(token)
        # A character may span tokens: print what the whole decodes to, less what was printed.
        text = tokenizer.decode(tokens, skip_special_tokens=True)
        if not text.endswith("\ufffd"):
            print(text[len(shown) :], end="", flush=True)
            shown = text
    print()
    seconds = time.perf_counter() - started
    if len(tokens) > 1:
        report = report_decoding(decoder, len(tokens) - 1, seconds)
        print(f"{wanted.mode}: {report.describe()}", file=sys.stderr)


def _prompt_ids(tokenizer: Any, prompt: str, chat: bool) -> list[int]:
    if not chat:
        ids: list[int] = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        return [tokenizer.bos_token_id, *ids]
    if tokenizer.chat_template is None:
        raise DataError("--chat", True, "a model with a chat template", "leave --chat out")
    messages = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    chat_ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return chat_ids
