"""Documents that are kept from training: for validation, evaluation and sparsity."""

import json
from dataclasses import dataclass
from pathlib import Path

from turbosparse.errors import DataError


@dataclass(frozen=True)
class Document:
    """A held-back document."""

    source: str
    text: str


def read_documents(path: Path) -> list[Document]:
    """Reads held-back documents from JSONL rows with `source` and `text`.

    Raises:
        DataError: there is no such file, or a row lacks one of the two.
    """
    if not path.is_file():
        raise DataError("data", str(path), "a file of held-back documents", "give the folder that holds it")
    documents = []
    # Not str.splitlines: it also splits at characters that JSON leaves as they are, such as U+2028.
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            row = json.loads(line)
            documents.append(Document(row["source"], row["text"]))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path.name}, line {number}",
                line,
                "a JSON row with source and text",
                "prepare the data again",
            ) from error
    return documents
