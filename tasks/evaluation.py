"""Tasks that measure a model."""

from tasks.stage import stage_task

evaluate = stage_task("evaluate", retries=1, timeout_seconds=48 * 3600)
"""The tuned model → task results, sparsity by layer, activated parameters."""
