"""The model card's section on licences: what the model was made of, and what its makers have to heed."""

from turbosparse.artifacts import Manifest

NOT_RECORDED = "not recorded"


def licences_section(stages: dict[str, Manifest]) -> str:
    """Returns the licences of the original model, of the corpus's sources and of the instructions."""
    rows = [("original model", *_original(stages))]
    corpus = stages["prepare"].metrics
    licences = corpus.get("licences", {})
    rows += [("corpus", source, licences.get(source, NOT_RECORDED)) for source in corpus["token_ratio"]]
    if "instructions" in stages:
        behind = stages["instructions"].metrics["stands_behind"]
        described = behind if isinstance(behind, dict) else {"instructions": str(behind)}
        rows += [("instructions", name, text) for name, text in described.items()]
    lines = [("what", "name", "licence"), ("---",) * 3, *rows]
    table = "\n".join(f"| {' | '.join(map(_in_table, line))} |" for line in lines)
    return (
        "Whoever publishes this model decides under which licence, and has to heed those of what it was made "
        f"of. The modelling code is Apache-2.0.\n\n{table}"
    )


def _in_table(text: str) -> str:
    # Some of it was read from a model's folder.
    return text.replace("|", "\\|")


def _original(stages: dict[str, Manifest]) -> tuple[str, str]:
    if "convert" not in stages:
        return "unknown", NOT_RECORDED
    metrics = stages["convert"].metrics
    return str(metrics["source"]), str(metrics.get("source_licence", NOT_RECORDED))
