"""Tasks that make data. A large corpus takes days: it has no time limit, and is built of groups that stay."""

from tasks.stage import stage_task

prepare_corpus = stage_task("prepare", retries=2)
"""Corpora → tokenizer, shards at Table 4's ratios, held-back documents."""

build_conversations = stage_task("instructions", retries=2)
"""Instruction rows → packed ChatML sequences with loss on the assistant's words."""
