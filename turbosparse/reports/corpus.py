"""The corpus report as Markdown."""

from collections.abc import Iterable
from typing import Any


def corpus_markdown(report: dict[str, Any]) -> str:
    """Returns the report of `corpus_report` as tables: mixture, text, substitutes, dropped documents."""
    sources: dict[str, dict[str, Any]] = report["sources"]
    mixture = _table(
        ("source", "category", "wanted %", "realised %", "sequences", "repetitions", "tokens", "bytes/token"),
        (
            (
                source,
                row["category"],
                f"{100 * row['wanted_ratio']:.2f}",
                f"{100 * row['realised_ratio']:.2f}",
                f"{row['num_drawn_sequences']:,}",
                f"{row['repetitions']:.2f}",
                f"{row['num_tokens']:,}",
                f"{row['bytes_per_token']:.2f}" if row["bytes_per_token"] else "–",
            )
            for source, row in sources.items()
        ),
    )
    text = _table(
        ("source", "documents", "bytes", "held back", "tail tokens", "text from"),
        (
            (
                source,
                f"{row['num_documents']:,}",
                f"{row['num_bytes']:,}",
                str(row["num_held_back_documents"]),
                f"{row['num_tail_tokens']:,}",
                row["stands_behind"],
            )
            for source, row in sources.items()
        ),
    )
    return (
        "# Corpus\n\n"
        f"Sequences of {report['sequence_length']:,} tokens. *Repetitions*: how often a sequence on disk is "
        "drawn in one epoch. *Tail tokens* fill no further sequence.\n\n"
        f"{mixture}\n## Text\n\n{text}\n{_substitutes(sources)}{_dropped(sources)}{_files(report)}"
    )


def _substitutes(sources: dict[str, dict[str, Any]]) -> str:
    used = {source: row for source, row in sources.items() if row["substitute"]}
    if not used:
        return ""
    percent = 100 * sum(row["realised_ratio"] for row in used.values())
    rows = ((source, row["substitute"], f"{100 * row['realised_ratio']:.2f}") for source, row in used.items())
    table = _table(("source", "what stands in", "% of the tokens"), rows)
    return f"## Substitutes\n\n{percent:.2f}% of the tokens come from substitutes.\n\n{table}\n"


def _dropped(sources: dict[str, dict[str, Any]]) -> str:
    rows = [
        (source, reason, f"{entry['count']:,}", _as_code(entry["samples"][0]) if entry["samples"] else "")
        for source, row in sources.items()
        for reason, entry in row["dropped"].items()
    ]
    if not rows:
        return "## Left out\n\nNothing.\n"
    return f"## Left out\n\n{_table(('source', 'reason', 'documents', 'for example'), rows)}"


def _files(report: dict[str, Any]) -> str:
    rows = [(problem["where"], problem["reason"]) for problem in report["files"]]
    return f"\n## Files\n\n{_table(('file', 'problem'), rows)}" if rows else ""


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [header, ["---" for _ in header], *rows]
    return "".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |\n" for line in lines
    )


def _as_code(sample: str) -> str:
    return "`" + sample[:80].replace("`", "'") + "`"
