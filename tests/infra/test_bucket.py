"""The bucket's policy: what a run needs of object storage, and nothing else."""

import json

import hcl2
import pytest
from documents import INFRA

NEEDED = {
    "s3:ListBucket": "`store ls`, and telling what is not there from what is forbidden",
    "s3:ListBucketMultipartUploads": "uploads that a killed writer began",
    "s3:AbortMultipartUpload": "the same",
    "s3:GetObject": "reading artifacts and checkpoints",
    "s3:PutObject": "writing them",
    "s3:DeleteObject": "old checkpoints, failed attempts",
}


@pytest.fixture(scope="module")
def statements():
    return json.loads((INFRA / "bucket" / "policy.json").read_text())["Statement"]


@pytest.fixture(scope="module")
def resources():
    """The Terraform file's resources, by kind."""
    with (INFRA / "bucket" / "main.tf").open() as file:
        tree = hcl2.load(file)
    found = {}
    for resource in tree["resource"]:
        for kind, bodies in resource.items():
            found[kind.strip('"')] = next(iter(bodies.values()))
    return found


def test_a_run_may_do_what_it_needs_and_no_more(statements):
    assert {action for statement in statements for action in statement["Action"]} == set(NEEDED)
    assert all(statement["Effect"] == "Allow" for statement in statements)


def test_objects_are_those_below_the_root(statements):
    for statement in statements:
        on_objects = [action for action in statement["Action"] if "Object" in action or "Abort" in action]
        if on_objects:
            assert statement["Resource"] == "arn:aws:s3:::turbosparse/runs/*"


def test_listing_without_a_prefix_is_not_refused(statements):
    """S3 says 403 instead of 404 to whoever may not list: nothing could be found to be missing."""
    (find,) = [statement for statement in statements if "s3:ListBucket" in statement["Action"]]
    assert set(find["Condition"]) == {"StringLikeIfExists"}


def test_the_bucket_is_private_and_encrypted(resources):
    block = resources["aws_s3_bucket_public_access_block"]
    names = ("block_public_acls", "block_public_policy", "ignore_public_acls", "restrict_public_buckets")
    assert all(block[name] is True for name in names)
    assert "aws_s3_bucket_server_side_encryption_configuration" in resources
    assert "aws_s3_bucket_policy" in resources, "which refuses what is not TLS"
    assert "policy.json" in str(resources["aws_iam_policy"]["policy"])


def test_nothing_expires_but_uploads_that_never_ended(resources):
    """Artifacts are kept by lineage, not by age: `turbosparse store gc` knows it."""
    (rule,) = resources["aws_s3_bucket_lifecycle_configuration"]["rule"]
    assert "abort_incomplete_multipart_upload" in rule
    assert not [name for name in rule if "expiration" in name or "transition" in name]
