"""`turbosparse bench data`: how fast and how lean the corpus is made and read, as ratios in one run."""

import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from streaming import MDSWriter, StreamingDataLoader
from transformers import PreTrainedTokenizerFast

from turbosparse.artifacts import Artifact, ArtifactSpec, Store
from turbosparse.bench.corpora import perturbed, real_documents, write_corpora
from turbosparse.config import DataConfig, resolve
from turbosparse.data.corpora import open_corpora
from turbosparse.data.corpus import CorpusInputs, build_corpus
from turbosparse.data.encode import Encoder
from turbosparse.data.groups import Cleaning, Rows, read_group, write_group
from turbosparse.data.layout import TOKENS
from turbosparse.data.stream import open_mixture
from turbosparse.data.tokenize import GivenTokenizer
from turbosparse.data.tokenizer import load_tokenizer, train_tokenizer
from turbosparse.data.tokens import write_tokens
from turbosparse.model.convert import initial_model
from turbosparse.progress import ignore_progress
from turbosparse.workers import Processes

SEQUENCE_LENGTH = 1_024
REPETITIONS = 3
GROUPS = 4
MAX_GROUP_BYTES = 16_000_000
"""Text of one group where speeds are compared; the whole build takes all of it."""
TRAINED_TOKENS = 256
LOADER_BATCH_SEQUENCES = 4


def measure_data(corpora: str | None, tokenizer_folder: str | None, num_bytes: int) -> dict[str, Any]:
    """Measures tokenizing, its scaling, its memory, and reading back.

    Args:
        corpora: folder of text; None: text found on this machine.
        tokenizer_folder: None: a byte-level BPE of 32,000 entries trained on the text.
        num_bytes: text to work on, made by repeating and perturbing the corpora.

    Returns:
        ratio_vs_document_at_a_time: speed of tokenize + pack + write, one core, over that of one
        document at a time through the tokenizer, concatenated and written by the same MDSWriter;
        scaling_2_workers: two processes over one, once they have started; peak_rss_bytes: the
        largest process of a whole build with two workers; loader_ratio_vs_training: tokens read per
        second over those that forward and backward of the 300M model consume here.
    """
    documents = real_documents(corpora)
    with tempfile.TemporaryDirectory(prefix="turbosparse-bench-") as place:
        folder = Path(place)
        tokenizer = _tokenizer(documents, tokenizer_folder, folder / "tokenizer")
        group_bytes = min(num_bytes // GROUPS, MAX_GROUP_BYTES)
        groups = [
            _group(documents, group_bytes, number, folder / f"group-{number}") for number in range(GROUPS)
        ]
        ratios, rates = _against_document_at_a_time(groups[0], tokenizer, folder)
        scaling = _scaling(groups, folder)
        artifact, peaks = _build(documents, num_bytes, folder)
        loader = _loader_tokens_per_second(artifact)
        training = _training_tokens_per_second()
    return {
        "ratio_vs_document_at_a_time": statistics.median(ratios),
        "ratios": ratios,
        **rates,
        "tokenizer_engine": Encoder(tokenizer).engine,
        "scaling_2_workers": scaling,
        "peak_rss_bytes": max(peaks),
        "corpus_bytes": num_bytes,
        "loader_tokens_per_second": loader,
        "training_tokens_per_second": training,
        "loader_ratio_vs_training": loader / training,
    }


def document_at_a_time(group: Path, tokenizer: PreTrainedTokenizerFast, folder: Path) -> int:
    """The common way: each document through the tokenizer alone; returns the sequences written."""
    dtype = np.dtype(np.uint16 if len(tokenizer) <= 2**16 else np.uint32)
    columns = {TOKENS: f"ndarray:{dtype.name}:{SEQUENCE_LENGTH}"}
    pending: list[int] = []
    num_sequences = 0
    with MDSWriter(out=str(folder), columns=columns, hashes=["xxh64"]) as writer:
        for _, text in read_group(group):
            ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            pending += [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
            while len(pending) >= SEQUENCE_LENGTH:
                writer.write({TOKENS: np.array(pending[:SEQUENCE_LENGTH], dtype)})
                pending = pending[SEQUENCE_LENGTH:]
                num_sequences += 1
    return num_sequences


def _tokenizer(documents: list[str], given: str | None, folder: Path) -> PreTrainedTokenizerFast:
    tokenizer = load_tokenizer(given) if given else train_tokenizer(documents, 32_000)
    tokenizer.save_pretrained(folder)
    return load_tokenizer(folder)


def _group(documents: list[str], num_bytes: int, number: int, folder: Path) -> Path:
    folder.mkdir()
    write_group(Rows(perturbed(documents, num_bytes, seed=number)), Cleaning(), 2 * num_bytes, folder)
    return folder


def _against_document_at_a_time(
    group: Path, tokenizer: PreTrainedTokenizerFast, folder: Path
) -> tuple[list[float], dict[str, float]]:
    ratios, ours, theirs = [], [], []
    with _one_core():
        for repetition in range(REPETITIONS):
            common = partial(document_at_a_time, group, tokenizer, folder / f"theirs-{repetition}")
            theirs.append(_seconds(common))
            # A new encoder each time: its memory of words is empty.
            ours.append(_seconds(partial(_tokenize, group, tokenizer, folder / f"ours-{repetition}")))
            ratios.append(theirs[-1] / ours[-1])
    num_bytes = sum(len(text.encode()) for _, text in read_group(group))
    return ratios, {
        "bytes_per_second": num_bytes / statistics.median(ours),
        "document_at_a_time_bytes_per_second": num_bytes / statistics.median(theirs),
    }


def _tokenize(group: Path, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    write_tokens(group, np.empty(0, np.int64), Encoder(tokenizer), SEQUENCE_LENGTH, folder)


def _scaling(groups: list[Path], folder: Path) -> float:
    """Speed of two processes over one, alternately, with processes that have imported everything."""
    ratios = []
    with _pool(1, folder / "tokenizer") as one, _pool(2, folder / "tokenizer") as two:
        for repetition in range(2):
            alone = _seconds(partial(_tokenize_all, one, groups, folder / f"one-{repetition}"))
            together = _seconds(partial(_tokenize_all, two, groups, folder / f"two-{repetition}"))
            ratios.append(alone / together)
    return statistics.median(ratios)


def _pool(num_workers: int, tokenizer: Path) -> ProcessPoolExecutor:
    """Returns processes that have imported everything and loaded the tokenizer."""
    pool = ProcessPoolExecutor(
        num_workers, mp_context=get_context("spawn"), initializer=_load, initargs=(tokenizer,)
    )
    # Each job waits, so that every worker starts up to take one.
    list(pool.map(time.sleep, [2.0] * num_workers))
    return pool


_loaded: list[PreTrainedTokenizerFast] = []


def _load(tokenizer: Path) -> None:
    _loaded.append(load_tokenizer(tokenizer))


def _tokenize_here(group: Path, folder: Path) -> None:
    _tokenize(group, _loaded[0], folder)


def _tokenize_all(pool: ProcessPoolExecutor, groups: list[Path], folder: Path) -> None:
    jobs = [pool.submit(_tokenize_here, group, folder / group.name) for group in groups]
    for job in jobs:
        job.result()


def _build(documents: list[str], num_bytes: int, folder: Path) -> tuple[Artifact, list[int]]:
    """A whole build, cleaning included, with two workers. Returns it and each process's peak."""
    write_corpora(documents, num_bytes, 2, folder / "corpora")
    config = DataConfig(
        corpora="folder",
        mixture={"wanjuan-cc": 100.0},
        num_tokens=num_bytes // 5,
        sequence_length=SEQUENCE_LENGTH,
        group_bytes=max(num_bytes // 8, 1_000_000),
    )
    store = Store(str(folder / "store"))
    inputs = CorpusInputs(
        open_corpora("folder", str(folder / "corpora")), GivenTokenizer(str(folder / "tokenizer"), "0" * 64)
    )
    spec = ArtifactSpec("prepare", 1, config.model_dump(mode="json"))
    with _peak_memory() as peaks:
        artifact = store.produce(
            spec,
            lambda workspace: build_corpus(config, inputs, store, workspace, Processes(2), ignore_progress),
        )
    return artifact, list(peaks.values())


def _loader_tokens_per_second(artifact: Artifact) -> float:
    dataset = open_mixture(artifact.folder(), artifact.store.place("tokens"), LOADER_BATCH_SEQUENCES)
    loader: Iterable[dict[str, torch.Tensor]] = StreamingDataLoader(
        dataset, batch_size=LOADER_BATCH_SEQUENCES
    )
    batches = iter(loader)
    next(batches)
    started, num_tokens = time.perf_counter(), 0
    for batch in batches:
        num_tokens += batch["input_ids"].numel()
    return num_tokens / (time.perf_counter() - started)


def _training_tokens_per_second() -> float:
    """Forward and backward of the 300M model, without its optimizer: training is slower still."""
    config = resolve("300m").model
    tokenizer = train_tokenizer(["some text"], 32_000)
    model = initial_model(config, tokenizer, "drelu").train()
    ids = torch.randint(0, 32_000, (1, TRAINED_TOKENS))

    def step() -> None:
        logits = model(input_ids=ids, use_cache=False).logits
        model.loss_function(logits, ids, vocab_size=logits.shape[-1]).backward()

    step()
    return TRAINED_TOKENS / statistics.median([_seconds(step) for _ in range(REPETITIONS)])


@contextmanager
def _peak_memory() -> Iterator[dict[int, int]]:
    """Gives the largest resident size of this process and of each of its children, in bytes."""
    peaks: dict[int, int] = {}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
                try:
                    peaks[process.pid] = max(peaks.get(process.pid, 0), process.memory_info().rss)
                except psutil.NoSuchProcess:
                    continue

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peaks
    finally:
        ended.set()
        watcher.join()


@contextmanager
def _one_core() -> Iterator[None]:
    """Keeps this process and the tokenizer's threads on one core."""
    cores, parallel = os.sched_getaffinity(0), os.environ.get("TOKENIZERS_PARALLELISM")
    os.sched_setaffinity(0, {min(cores)})
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        os.environ.pop("TOKENIZERS_PARALLELISM")
        if parallel is not None:
            os.environ["TOKENIZERS_PARALLELISM"] = parallel


def _seconds(function: Callable[[], Any]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started
