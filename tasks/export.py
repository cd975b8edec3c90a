"""Tasks that write files for other engines."""

from tasks.stage import stage_task

export = stage_task("export", retries=1, timeout_seconds=24 * 3600)
"""The tuned model → a Hugging Face folder, checked and timed."""
