"""Evaluation through lm-evaluation-harness."""
