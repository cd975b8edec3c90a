"""The whole chain with nothing but a bucket between its stages."""

import json
import os
import subprocess

import pytest
from flows_command import SHORT, TURBOSPARSE

from turbosparse.artifacts import Store


@pytest.mark.long
def test_the_chain_passes_through_a_bucket(swift, s3, tmp_path):
    settings = [word for name, value in SHORT.items() for word in ("--set", f"{name}={value}")]
    command = [TURBOSPARSE, "dry-run", "--preset", "tiny", "--root", s3, "--json", *settings]
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_HOME"}
    ended = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=900, check=False
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    report = json.loads(ended.stdout.splitlines()[-1])
    assert all(stage["uri"].startswith(s3) for stage in report["stages"].values())
    store = Store(s3)
    for manifest in store.manifests():
        assert store.load(manifest.name).folder().is_dir(), "every digest is as committed"
    assert not store.remove_unfinished(), "training left nothing behind"
    keys = [entry["Key"] for entry in _everything(swift, s3)]
    assert not [key for key in keys if "/state/" in key], "checkpoints went with the commit"


def _everything(swift, uri: str) -> list[dict]:
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    pages = swift.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return [entry for page in pages for entry in page.get("Contents", [])]
