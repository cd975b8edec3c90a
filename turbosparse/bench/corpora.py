"""Text for measuring: real documents, repeated with words swapped so that no cache is flattered."""

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from turbosparse.config.data import TABLE_4_PERCENT
from turbosparse.data.corpora import open_corpora
from turbosparse.data.reading import Problem

SWAPPED_RATIO = 0.2
"""Words replaced by others of the same corpora in each repetition."""
MAX_DOCUMENT_BYTES = 64_000_000


def real_documents(folder: str | None) -> list[str]:
    """Returns all documents of a folder of corpora, or of the text found on this machine."""
    corpora = open_corpora("folder" if folder else "local", folder)
    documents: dict[str, None] = {}
    # A folder that lacks a source is not filled up with text of this machine.
    missing = corpora.substitutes(TABLE_4_PERCENT) if folder else {}
    for source in (name for name in TABLE_4_PERCENT if name not in missing):
        for file in corpora.files(source):
            rows = file.read(MAX_DOCUMENT_BYTES)
            documents |= dict.fromkeys(row for row in rows if not isinstance(row, Problem))
    return list(documents)


def perturbed(documents: Sequence[str], num_bytes: int, seed: int = 17) -> Iterator[str]:
    """Yields documents, again and again, with a fifth of their words swapped, until `num_bytes`."""
    generator = random.Random(seed)  # noqa: S311 - a benchmark's text, no secret
    words = [word for document in documents[:400] for word in document[:20_000].split(" ")]
    written = 0
    while True:
        for document in documents:
            swapped = [
                generator.choice(words) if generator.random() < SWAPPED_RATIO else word
                for word in document.split(" ")
            ]
            text = " ".join(swapped)
            yield text
            written += len(text.encode())
            if written >= num_bytes:
                return


def write_corpora(documents: Sequence[str], num_bytes: int, num_files: int, folder: Path) -> None:
    """Writes perturbed documents to `num_files` JSONL files of one category (web)."""
    folder.mkdir(parents=True)
    for number in range(num_files):
        with (folder / f"web_{number}.jsonl").open("w", encoding="utf-8") as file:
            for text in perturbed(documents, num_bytes // num_files, seed=number):
                file.write(json.dumps({"text": text}) + "\n")
