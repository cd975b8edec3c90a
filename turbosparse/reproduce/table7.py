"""Table 7: decoding speed on the CPU alone."""

from turbosparse.bench.decode import DecodePlan, measure_decoding
from turbosparse.bench.decode_report import (
    HEADER,
    PAPER_TABLE_7,
    decoding_notes,
    decoding_rows,
    paper_rows,
    plot_decoding,
)
from turbosparse.reproduce.common import Reproduction, Request


def reproduce(request: Request) -> Reproduction:
    """Measures dense and sparse decoding at the paper's models' widths on this machine, and llama.cpp.

    Reference: Section 7.2 and Table 7 of the paper.
    """
    return tabulate(request, DecodePlan(num_rounds=3) if request.scale == "tiny" else DecodePlan())


def tabulate(request: Request, plan: DecodePlan) -> Reproduction:
    """Returns the table as `plan` measures it."""
    report = measure_decoding(plan)
    plot = request.out / "table7.png"
    request.out.mkdir(parents=True, exist_ok=True)
    plot_decoding(report, plot)
    return Reproduction(
        name="table7",
        title="Table 7: decoding speed on the CPU alone",
        header=HEADER,
        rows=[*decoding_rows(report), *paper_rows()],
        measured=report,
        paper={
            f"{setting}, {model}-{precision}": {"powerinfer": sparse, "llama_cpp": dense, "speedup": ratio}
            for setting, model, precision, sparse, dense, ratio in PAPER_TABLE_7
        },
        notes=[*decoding_notes(report), *contradictions()],
        plots=[plot],
    )


def contradictions() -> list[str]:
    """Returns what the paper's text says otherwise than its table."""
    ratios = [ratio for *_, ratio in PAPER_TABLE_7]
    return [
        f"Section 7.2 gives speedups of 2.08 to 2.28×; the paper's own table has {min(ratios):.2f} to "
        f"{max(ratios):.2f}×."
    ]
