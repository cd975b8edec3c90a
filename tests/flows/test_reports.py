"""Reports as artifacts: they carry their plots with them."""

import base64

from tasks.reports import LARGEST_PLOT_BYTES, stage_report
from tasks.stage import StageResult


def result(folder, **content: bytes) -> StageResult:
    for name, data in content.items():
        (folder / f"{name}.png").write_bytes(data)
    (folder / "report.md").write_text("## Mixture\n\nas it is\n")
    return StageResult(
        stage="prepare",
        uri=folder.as_uri(),
        seconds=1.0,
        reused=False,
        metrics={"num_tokens": 40_000, "token_ratio": {"pile": 0.25}, "layers": [1, 2]},
        plots=[(folder / f"{name}.png").as_uri() for name in content],
        reports=[(folder / "report.md").as_uri()],
    )


def test_plots_are_inside_and_a_huge_one_is_linked(tmp_path):
    small, huge = b"\x89PNG small", bytes(LARGEST_PLOT_BYTES + 1)
    report = stage_report(result(tmp_path, mixture=small, huge=huge))
    assert f"![mixture.png](data:image/png;base64,{base64.b64encode(small).decode()})" in report
    assert f"[huge.png]({(tmp_path / 'huge.png').as_uri()})" in report
    assert len(report) < LARGEST_PLOT_BYTES


def test_figures_of_all_depths_and_the_stages_own_report_are_there(tmp_path):
    report = stage_report(result(tmp_path))
    assert "| num_tokens | 40,000 |" in report
    assert "| token_ratio.pile | 0.25 |" in report
    assert "## Mixture\n\nas it is" in report
