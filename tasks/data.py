"""Tasks that make data."""

from tasks.stage import stage_task

prepare_corpus = stage_task("prepare", retries=2)
"""Corpora → tokenizer, shards at Table 4's ratios, held-back documents."""

build_conversations = stage_task("instructions", retries=2)
"""Instruction rows → packed ChatML sequences with loss on the assistant's words."""
