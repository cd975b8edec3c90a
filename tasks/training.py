"""Tasks that train or change a model.

Training runs in processes of its own and resumes on a retry. It has no time limit: what watches it ends
it when it hangs (`placement.supervision`).
"""

from tasks.stage import stage_task

train_base = stage_task("base", retries=2)
"""Initial weights → a SwiGLU model, where none is given."""

convert_to_drelu = stage_task("convert", retries=1, timeout_seconds=12 * 3600)
"""SwiGLU → dReLU, weights bit for bit."""

pretrain = stage_task("pretrain", retries=2)
"""The converted model → the recovered model."""

finetune = stage_task("finetune", retries=2)
"""The recovered model → instruction-tuned, with predictors."""
