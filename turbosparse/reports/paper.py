"""The paper's figures on evaluation tasks and decoding, for whoever sets ours beside them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PaperTask:
    """A task of Table 6 or 13, in percent, by PAPER_MODELS."""

    title: str
    """With the paper's number of examples, where it gives one."""
    task: str
    """The harness's name."""
    metric: str
    """The harness's name of what the paper seems to have counted."""
    percent: tuple[float, ...]


PAPER_MODELS = ("Gemma-2B", "Mistral-7B", "TurboSparse-Mistral-7B", "Mixtral-47B", "TurboSparse-Mixtral-47B")
TABLE_6 = (
    PaperTask("ARC-challenge, 25", "arc_challenge", "acc_norm", (48.55, 61.43, 62.2, 68.09, 67.49)),
    PaperTask("HellaSwag, 10", "hellaswag", "acc_norm", (71.02, 83.32, 82.17, 86.62, 85.22)),
    PaperTask("MMLU, 5", "mmlu", "acc", (40.05, 62.65, 63.89, 70.53, 70.48)),
    PaperTask("TruthfulQA, 0", "truthfulqa_mc2", "acc", (34.38, 44.06, 46.64, 48.59, 56.64)),
    PaperTask("WinoGrande, 5", "winogrande", "acc", (66.06, 79.24, 76.16, 83.35, 82.24)),
    PaperTask("GSM8K, 8", "gsm8k", "exact_match,strict-match", (18.72, 40.17, 50.84, 58.91, 68.50)),
)
TABLE_13 = (
    PaperTask("SciQ", "sciq", "acc", (93.8, 96.4, 96.4, 96.7, 97.9)),
    PaperTask("PIQA", "piqa", "acc", (76.71, 80.79, 80.58, 82.43, 82.15)),
    PaperTask("OpenBookQA", "openbookqa", "acc_norm", (39.8, 46.0, 47.0, 49.4, 49.0)),
    PaperTask("ARC-easy", "arc_easy", "acc", (74.12, 80.3, 81.06, 83.75, 85.06)),
)
CPU_SPEEDUPS = {"Mistral-7B, FP16": (2.08, 2.11), "Mixtral-47B, INT4": (2.81, 2.32)}
"""Table 7: PowerInfer with the sparse model over llama.cpp with the original, on two machines."""


def original_and_sparse(task: str, metric: str, is_moe: bool) -> tuple[float, float] | None:
    """Returns the paper's percent of the original and of the sparsified model; None: not in the paper."""
    for known in (*TABLE_6, *TABLE_13):
        if (known.task, known.metric) == (task, metric):
            return (known.percent[3], known.percent[4]) if is_moe else (known.percent[1], known.percent[2])
    return None
