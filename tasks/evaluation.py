"""Tasks that measure a model."""

from tasks.stage import stage_task

evaluate = stage_task("evaluate", retries=1)
"""The tuned model → task results, sparsity by layer, activated parameters."""
