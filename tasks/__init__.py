"""Prefect tasks: one library call each, with retries, progress and artifacts. No logic of their own."""
