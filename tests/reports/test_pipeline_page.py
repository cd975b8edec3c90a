"""The page of a run: self-contained, escaped, nothing said that was not measured."""

import re

import pytest
from typer import Typer
from typer.testing import CliRunner

from turbosparse.artifacts import ArtifactSpec
from turbosparse.cli.report import report
from turbosparse.errors import ArtifactError
from turbosparse.reports.lineage import open_pipeline
from turbosparse.reports.pipeline import REPORT_NAME, make_pipeline_page, write_pipeline_page


@pytest.fixture
def page_of(tmp_path):
    def page(where: str) -> str:
        write_pipeline_page(where, tmp_path / "page.html")
        return (tmp_path / "page.html").read_text()

    return page


def section(page: str, anchor: str) -> str:
    return page.split(f'<section id="{anchor}">')[1].split("</section>", maxsplit=1)[0]


def cells(html: str) -> list[list[str]]:
    rows = re.findall(r"<tr.*?</tr>", html, re.DOTALL)
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]


def test_the_page_needs_nothing_but_itself(made_up_run, page_of):
    page = page_of(made_up_run.export.uri)
    assert "<script" not in page
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert {source.partition(":")[0] for source in sources if not source.startswith("#")} == {"data"}
    assert page.count("data:image/png;base64,") == 7
    assert not re.search(r"url\(|@import|http-equiv=\"refresh", page)
    assert 'name="viewport"' in page
    assert "@media print" in page


def test_what_comes_from_data_is_escaped(made_up_run, page_of):
    mixture = section(page_of(made_up_run.export.uri), "mixture")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in mixture


def test_every_link_of_the_navigation_leads_somewhere(made_up_run, page_of):
    page = page_of(made_up_run.export.uri)
    anchors = re.findall(r'href="#([^"]*)"', page)
    assert len(anchors) == len(set(anchors)) == 8
    assert all(f'<section id="{anchor}">' in page for anchor in anchors)


def test_figures_stand_where_they_belong(made_up_run, page_of):
    page = page_of(made_up_run.export.uri)
    assert cells(section(page, "mixture"))[1][:5] == ["wanjuan-cc", "75.00%", "75.01%", "40,000", "1.50"]
    training = cells(section(page, "training"))
    assert ["dReLU recovery", "4", "8.000", "5.000", "Web 8.50", "1,000", "–", "–"] in training
    assert ["2", "0.4375"] in training and ["4", "0.4375"] in training
    assert ["1", "76.00%", "31.25%"] in cells(section(page, "sparsity-by-layer"))
    assert ["mean", "93.75%", "81.25%", "31.25%", "25.00%"] in cells(section(page, "predictors"))
    assert ["exact sparse", "14.00", "1.75×"] in cells(section(page, "decoding-speed"))
    lineage = [row[1].split("/")[0] for row in cells(section(page, "lineage"))[1:]]
    assert sorted(lineage) == sorted(
        ["export", "evaluate", "finetune", "pretrain", "convert", "base", "prepare"]
    )


def test_the_papers_models_stand_beside(made_up_run, page_of):
    rows = cells(section(page_of(made_up_run.export.uri), "evaluation"))
    assert rows[1] == ["piqa", "acc", "40", "0", "0.5000", "0.4800 – 0.5200", "–", "80.79%", "80.58%"]


def test_the_original_is_compared_item_by_item_where_it_was_evaluated(made_up_run, page_of):
    before = section(page_of(made_up_run.export.uri), "evaluation")
    assert "was not evaluated on these items" in before
    made_up_run.evaluate_original([1.0] * 40)
    after = section(page_of(made_up_run.export.uri), "evaluation")
    compared = cells(after)[-1]
    assert compared[:4] == ["piqa", "acc", "1.0000", "0.5000"]
    assert compared[-1] == "worse"


def test_an_original_of_other_items_is_not_compared(made_up_run, page_of):
    made_up_run.evaluate_original([1.0] * 39)
    page = section(page_of(made_up_run.export.uri), "evaluation")
    assert "evaluated otherwise: piqa differs" in page


def test_the_kept_page_is_found_again_and_made_anew_with_another_evaluation(made_up_run):
    first = make_pipeline_page(made_up_run.export.uri)
    assert make_pipeline_page(made_up_run.export.uri).reused
    made_up_run.evaluate_original([1.0] * 40)
    second = make_pipeline_page(made_up_run.export.uri)
    assert second.uri != first.uri
    assert "worse" in (second.folder() / REPORT_NAME).read_text()


def test_a_roots_newest_run_is_its_page(made_up_run, page_of, tmp_path):
    assert made_up_run.export.manifest.name in page_of(made_up_run.store.root)


def test_of_two_stages_of_a_kind_the_later_one_counts(made_up_run):
    """A retraining goes on from an earlier recovery."""

    def build(workspace):
        (workspace.folder / "file").write_text("text")
        return {}

    again = ArtifactSpec("pretrain", 1, {"again": True}, {"model": made_up_run.specs["pretrain"]})
    found = open_pipeline(made_up_run.store.produce(again, build).uri)
    assert found.stages["pretrain"].name == again.name
    assert found.stages["base"].name == made_up_run.specs["base"].name


def test_a_run_that_came_half_way_names_what_is_missing(made_up_run, page_of):
    pretrained = f"{made_up_run.store.root}/{made_up_run.specs['pretrain'].name}"
    page = page_of(pretrained)
    for anchor in ("sparsity-by-layer", "predictors", "evaluation", "decoding-speed"):
        assert "Not measured" in section(page, anchor)


def test_a_place_without_a_run_is_refused_and_nothing_written(tmp_path):
    app = Typer()
    app.command()(report)
    (tmp_path / "empty").mkdir()
    ended = CliRunner().invoke(app, [str(tmp_path / "empty"), str(tmp_path / "page.html")])
    assert isinstance(ended.exception, ArtifactError)
    assert not (tmp_path / "page.html").exists()


def test_a_damaged_file_is_named(made_up_run, page_of):
    spec: ArtifactSpec = made_up_run.specs["pretrain"]
    manifest = made_up_run.store.load(spec.name).manifest
    assert made_up_run.store.local_root is not None
    (made_up_run.store.local_root / spec.name / manifest.attempt / "history.jsonl").write_text("{}")
    with pytest.raises(ArtifactError, match=r"history\.jsonl"):
        page_of(made_up_run.export.uri)
