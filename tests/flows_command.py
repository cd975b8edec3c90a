"""The command line, and settings that make its pipeline as short as it can be and still be real."""

import sys
from pathlib import Path

TURBOSPARSE = str(Path(sys.executable).with_name("turbosparse"))
SHORT = {
    "data.num_tokens": 40_000,
    "data.sequence_length": 64,
    "data.vocab_size": 512,
    "convert.base.num_steps": 4,
    "convert.base.warmup_steps": 1,
    "pretrain.num_steps": 12,
    "pretrain.warmup_steps": 1,
    "finetune.num_steps": 4,
    "finetune.warmup_steps": 1,
    "finetune.sequence_length": 128,
    "finetune.max_conversations": 60,
    "evaluate.limit": 4,
    "evaluate.num_sparsity_tokens": 512,
    "export.num_check_tokens": 4,
    "export.num_timed_tokens": 4,
}
