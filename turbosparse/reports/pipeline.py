"""One page per pipeline run: what was mixed, trained, made sparse, measured and decoded, and from what."""

from collections.abc import Iterator
from pathlib import Path

from turbosparse.artifacts import Artifact, ArtifactSpec, Store, Workspace
from turbosparse.artifacts.lineage import spec_of
from turbosparse.reports.lineage import PipelineRun, open_pipeline
from turbosparse.reports.page import Block, Figures, Page, Picture, Section, Table, Text, write_page
from turbosparse.reports.paper import CPU_SPEEDUPS
from turbosparse.reports.pipeline_evaluation import evaluation_section
from turbosparse.reports.training_section import training_section

REPORT_NAME = "report.html"


def write_pipeline_page(where: str, path: Path) -> PipelineRun:
    """Writes the page of a run to a file; returns the run.

    Args:
        where: `<root>/<kind>/<identity>` of the run's last artifact, or a root: its newest run.
        path: the HTML file.

    Raises:
        ArtifactError: Nothing lies there that a report could be of, or a file is damaged.
    """
    run = open_pipeline(where)
    write_page(pipeline_page(run), path)
    return run


def make_pipeline_page(where: str) -> Artifact:
    """Returns the page of a run as an artifact beside the run's: found in the store, or written now.

    Raises:
        ArtifactError: Nothing lies there that a report could be of, or a file is damaged.
    """
    run = open_pipeline(where)
    parents = {"last": spec_of(run.store, run.last.name)}
    if run.base_evaluation is not None:
        parents["base_evaluation"] = spec_of(run.store, run.base_evaluation.name)

    def build(workspace: Workspace) -> dict[str, int]:
        page = pipeline_page(run)
        write_page(page, workspace.folder / REPORT_NAME)
        return {"num_sections": len(page.sections)}

    return Store.at(run.store).produce(ArtifactSpec("report", 1, {}, parents), build)


def pipeline_page(run: PipelineRun) -> Page:
    """Returns the page of a run; stages that did not run are named as missing."""
    sections = [
        Section("At a glance", [Figures(dict(_glance(run)))]),
        _mixture(run),
        training_section(run),
        _sparsity(run),
        _predictors(run),
        evaluation_section(run),
        _speed(run),
        _lineage(run),
    ]
    lead = f"{run.uri}, made {run.last.created_at[:19].replace('T', ' ')} UTC."
    return Page("TurboSparse pipeline run", lead, sections)


def _glance(run: PipelineRun) -> Iterator[tuple[str, str]]:
    trained, tuned = run.metrics("pretrain"), run.metrics("finetune")
    evaluated, exported = run.metrics("evaluate"), run.metrics("export")
    if trained:
        yield "loss while recovering", f"{trained['first_loss']:.3f} → {trained['last_loss']:.3f}"
    if evaluated:
        yield "FFN activations at zero", f"{evaluated['zero_activation_ratio']:.1%}"
        yield "parameters per token", f"{evaluated['activated_parameters']['total']:,}"
    if tuned:
        yield "predictors' recall", f"{tuned['recall']:.1%}"
        yield "predictors' precision", f"{tuned['precision']:.1%}"
    if exported:
        yield "exact sparse decoding", f"{exported['exact_speedup_ratio']:.2f}×"


def _mixture(run: PipelineRun) -> Section:
    report = run.json("prepare", "report.json")
    if report is None:
        return _missing("Mixture", "prepare")
    rows = [
        [
            source,
            f"{row['wanted_ratio']:.2%}",
            f"{row['realised_ratio']:.2%}",
            f"{row['num_tokens']:,}",
            f"{row['repetitions']:.2f}",
            row["stands_behind"],
        ]
        for source, row in report["sources"].items()
    ]
    header = ["source", "wanted", "drawn", "tokens on disk", "repetitions", "text from"]
    caption = f"Sequences of {report['sequence_length']:,} tokens; wanted is what was configured."
    pictures = _picture(run, "prepare", "mixture.png", "Shares of the tokens, wanted and drawn")
    return Section("Mixture", [*pictures, Table(header, rows, caption)])


def _sparsity(run: PipelineRun) -> Section:
    found = run.metrics("evaluate")
    if found is None:
        return _missing("Sparsity by layer", "evaluate")
    names = ("zero_activation_ratio", "predicted_active_ratio")
    rows = [[layer["layer"], *(_percent(layer[name]) for name in names)] for layer in found["layers"]]
    rows.append(["mean", _percent(found["zero_activation_ratio"]), ""])
    parameters = [[name, f"{number:,}"] for name, number in found["activated_parameters"].items()]
    paper = [["paper: TurboSparse-Mistral-7B", "90%", ""], ["paper: TurboSparse-Mixtral-47B", "85%", ""]]
    caption = f"On {found['num_sparsity_tokens']:,} tokens of held-back text."
    blocks: list[Block] = [
        *_picture(run, "evaluate", "sparsity.png", "Zero activations by layer"),
        Table(["layer", "activations at zero", "predicted active"], [*rows, *paper], caption),
        Table(["part", "parameters per token"], parameters),
    ]
    return Section("Sparsity by layer", blocks)


def _predictors(run: PipelineRun) -> Section:
    found = run.metrics("finetune")
    if found is None:
        return _missing("Predictors", "finetune")
    names = ("recall", "precision", "predicted_active_ratio", "true_active_ratio")
    rows = [[layer["layer"], *(_percent(layer[name]) for name in names)] for layer in found["layers"]]
    rows.append(["mean", *(_percent(found[name]) for name in names)])
    header = ["layer", "recall", "precision", "predicted active", "truly active"]
    perplexity = (
        f"Perplexity with only the predicted neurons: {found['perplexity_predicted']:.3f}, with all "
        f"{found['perplexity_exact']:.3f}, on {found['num_measured_tokens']:,} tokens that thresholds were "
        "not chosen on. The paper gives no figures on its predictors."
    )
    pictures = [
        *_picture(run, "finetune", "trade_off.png", "What predictors keep, and what that does"),
        *_picture(run, "finetune", "predictors.png", "Predictors by layer"),
    ]
    return Section("Predictors", [*pictures, Table(header, rows), Text(perplexity)])


def _speed(run: PipelineRun) -> Section:
    found = run.metrics("export")
    if found is None:
        return _missing("Decoding speed", "export")
    rows = [
        ["dense", f"{found['dense_tokens_per_second']:.2f}", "1.00×"],
        ["exact sparse", f"{found['exact_tokens_per_second']:.2f}", f"{found['exact_speedup_ratio']:.2f}×"],
    ]
    rows += [
        [f"paper: {name}", "", " and ".join(f"{ratio:.2f}×" for ratio in ratios)]
        for name, ratios in CPU_SPEEDUPS.items()
    ]
    caption = (
        "Batch 1, on the machine that exported. The paper's: PowerInfer with predictors over llama.cpp with "
        "the original model, on two machines' CPUs."
    )
    return Section("Decoding speed", [Table(["way", "tokens/s", "speed"], rows, caption)])


def _lineage(run: PipelineRun) -> Section:
    seen: dict[str, list[object]] = {}
    for depth, role, manifest in run.store.lineage(run.last):
        inputs = ", ".join(f"{name} {digest[:12]}" for name, digest in manifest.inputs.items())
        made = manifest.created_at[:19].replace("T", " ")
        row = ["· " * depth + (role or "this"), manifest.name, made, f"{manifest.seconds:,.1f}", inputs]
        seen.setdefault(manifest.name, [*row, manifest.code_version])
    header = ["role", "artifact", "made, UTC", "seconds", "inputs by digest", "turbosparse"]
    return Section("Lineage", [Table(header, list(seen.values()), f"Below {run.store.root}.")])


def _picture(run: PipelineRun, kind: str, name: str, caption: str) -> Iterator[Picture]:
    path = run.file(kind, name)
    if path is not None:
        yield Picture(path.read_bytes(), caption)


def _missing(title: str, stage: str) -> Section:
    return Section(title, [Text(f"Not measured: {stage} has not run.")])


def _percent(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.2%}"
