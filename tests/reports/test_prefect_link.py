"""The pipeline's report in Prefect leads to the page."""

from tasks import reports
from tasks.stage import StageResult
from turbosparse.artifacts import Store


def test_the_report_links_a_page_that_is_there(made_up_run, monkeypatch):
    published = {}
    monkeypatch.setattr(
        reports, "create_markdown_artifact", lambda markdown, key: published.update({key: markdown})
    )
    result = StageResult(
        stage="export",
        uri=made_up_run.export.uri,
        seconds=1.0,
        reused=False,
        metrics={},
        plots=[],
        reports=[],
    )
    reports.publish_pipeline.fn([result])
    link = published["pipeline-report"].split("[The run as one page](")[1].split(")")[0]
    kind, identity, attempt, name = link.split("/")[-4:]
    store = Store(link.rsplit("/", 4)[0])
    page = store.load(f"{kind}/{identity}")
    assert (page.manifest.attempt, page.manifest.kind) == (attempt, "report")
    assert "TurboSparse pipeline run" in (page.folder() / name).read_text()
