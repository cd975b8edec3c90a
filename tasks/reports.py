"""Reports as Prefect artifacts: figures as tables, plots inside the Markdown, so that no link is needed."""

import base64
from collections.abc import Iterator
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from tasks.stage import StageResult
from turbosparse.artifacts.endpoint import open_filesystem
from turbosparse.reports.pipeline import REPORT_NAME, make_pipeline_page

LARGEST_PLOT_BYTES = 400_000
"""A larger plot is linked: artifacts lie in the server's database."""
TIMEOUT_SECONDS = 300.0


@task(
    name="publish report",
    task_run_name="publish-{result.stage}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=2,
    retry_delay_seconds=5,
    timeout_seconds=TIMEOUT_SECONDS,
)
def publish(result: StageResult) -> None:
    """Publishes a stage's figures as a table, and its plots and own reports as a Markdown artifact."""
    rows = [{"metric": name, "value": _shown(value)} for name, value in _scalars(result.metrics)]
    create_table_artifact(rows, key=f"{result.stage}-metrics", description=result.uri)
    create_markdown_artifact(stage_report(result), key=f"{result.stage}-report", description=result.uri)


@task(
    name="publish pipeline report",
    task_run_name="publish-pipeline",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=2,
    retry_delay_seconds=5,
    timeout_seconds=TIMEOUT_SECONDS,
)
def publish_pipeline(results: list[StageResult]) -> None:
    """Publishes one Markdown artifact over all stages of a pipeline run, with a link to its page."""
    page = make_pipeline_page(results[-1].uri)
    link = f"[The run as one page]({page.uri}/{page.manifest.attempt}/{REPORT_NAME})"
    rows = "\n".join(
        f"| {result.stage} | {result.seconds:.1f} | {'yes' if result.reused else 'no'} | `{result.uri}` |"
        for result in results
    )
    table = f"# Pipeline\n\n| stage | seconds | reused | artifact |\n| --- | --- | --- | --- |\n{rows}\n"
    sections = "\n".join(stage_report(result) for result in results)
    create_markdown_artifact(f"{table}\n{link}\n\n{sections}", key="pipeline-report")


def stage_report(result: StageResult) -> str:
    """Returns a stage's plots, its own reports, and its scalar metrics as a table."""
    reused = " (reused)" if result.reused else ""
    parts = [f"# {result.stage}{reused}\n\n`{result.uri}`\n"]
    parts += [f"{_plot(uri)}\n" for uri in result.plots]
    parts += [_read(uri).decode() for uri in result.reports]
    rows = "".join(f"| {name} | {_shown(value)} |\n" for name, value in _scalars(result.metrics))
    return "\n".join([*parts, f"| metric | value |\n| --- | --- |\n{rows}"])


def _plot(uri: str) -> str:
    """Returns a PNG file as Markdown that carries its bytes."""
    name, content = uri.rpartition("/")[2], _read(uri)
    if len(content) > LARGEST_PLOT_BYTES:
        return f"[{name}]({uri})"
    return f"![{name}](data:image/png;base64,{base64.b64encode(content).decode()})"


def _read(uri: str) -> bytes:
    filesystem, path = open_filesystem(uri)
    return bytes(filesystem.cat_file(path))


def _scalars(metrics: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in metrics.items():
        if isinstance(value, dict):
            yield from _scalars(value, f"{prefix}{name}.")
        elif isinstance(value, int | float | str):
            yield f"{prefix}{name}", value


def _shown(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value
