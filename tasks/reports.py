"""Reports as Prefect artifacts."""

from collections.abc import Iterator
from typing import Any

import fsspec
from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from tasks.stage import StageResult


@task(name="publish report", cache_policy=NO_CACHE, persist_result=False)
def publish(result: StageResult) -> None:
    """Publishes a stage's figures and plots as a Markdown artifact."""
    create_markdown_artifact(stage_report(result), key=f"{result.stage}-report", description=result.uri)


@task(name="publish pipeline report", cache_policy=NO_CACHE, persist_result=False)
def publish_pipeline(results: list[StageResult]) -> None:
    """Publishes one Markdown artifact over all stages of a pipeline run."""
    rows = "\n".join(
        f"| {result.stage} | {result.seconds:.1f} | {'yes' if result.reused else 'no'} | `{result.uri}` |"
        for result in results
    )
    table = f"# Pipeline\n\n| stage | seconds | reused | artifact |\n| --- | --- | --- | --- |\n{rows}\n"
    sections = "\n".join(stage_report(result) for result in results)
    create_markdown_artifact(f"{table}\n{sections}", key="pipeline-report")


def stage_report(result: StageResult) -> str:
    """Returns a stage's scalar metrics as a table, with links to its plots."""
    rows = "\n".join(f"| {name} | {_shown(value)} |" for name, value in _scalars(result.metrics))
    plots = "\n".join(f"- [{uri.rsplit('/', 1)[-1]}]({uri})" for uri in result.plots)
    reused = " (reused)" if result.reused else ""
    table = f"# {result.stage}{reused}\n\n`{result.uri}`\n\n| metric | value |\n| --- | --- |\n{rows}\n"
    own = "".join(f"\n{_read(uri)}" for uri in result.reports)
    return table + own + (f"\nPlots:\n\n{plots}\n" if plots else "")


def _read(uri: str) -> str:
    with fsspec.open(uri, "rt", encoding="utf-8") as file:
        return str(file.read())


def _scalars(metrics: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in metrics.items():
        if isinstance(value, dict):
            yield from _scalars(value, f"{prefix}{name}.")
        elif isinstance(value, int | float | str):
            yield f"{prefix}{name}", value


def _shown(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value
