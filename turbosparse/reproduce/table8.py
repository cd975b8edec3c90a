"""Table 8: decoding on a CPU and a GPU together, which is PowerInfer's own."""

from turbosparse.reproduce.common import Reproduction, Request

PAPER = (
    ("PC-2080Ti", "Mistral-7B-FP16", 35.5, 7.64, 4.64),
    ("PC-2080Ti", "Mixtral-47B-INT4", 22.24, 6.63, 3.35),
    ("PC-Laptop", "Mixtral-47B-INT4", 33.12, 13.1, 2.52),
)
"""Setting, model, tokens per second of PowerInfer and of llama.cpp, speedup."""
WHY = (
    "not measured: hybrid decoding is PowerInfer's, built outside this project, and takes a GPU. "
    "`turbosparse export --format powerinfer` writes the files that it decodes."
)


def reproduce(request: Request) -> Reproduction:  # noqa: ARG001 - as every reproduction
    """Gives the paper's figures, and says why there are none of ours.

    Reference: Section 7.3 and Table 8 of the paper.
    """
    rows = [["here", model, "not measured", "not measured", "not measured"] for model in _models()]
    rows += [
        [f"paper, {setting}", model, f"{sparse}", f"{dense}", f"{ratio:.2f}×"]
        for setting, model, sparse, dense, ratio in PAPER
    ]
    return Reproduction(
        name="table8",
        title="Table 8: decoding speed on a CPU and a GPU together, tokens/s",
        header=["machine", "model", "PowerInfer", "llama.cpp", "speedup"],
        rows=rows,
        measured={"hybrid": None, "why": WHY},
        paper={
            f"{setting}, {model}": {"powerinfer": sparse, "llama_cpp": dense, "speedup": ratio}
            for setting, model, sparse, dense, ratio in PAPER
        },
        notes=[WHY],
    )


def _models() -> list[str]:
    return sorted({model for _, model, *_ in PAPER})
