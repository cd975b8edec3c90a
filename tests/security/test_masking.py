"""Secrets are replaced before they reach a log, an error, a traceback or a rank's output."""

import json
import logging
import pickle
import subprocess
import sys

import pytest

from turbosparse.config import JobSetConfig, Placement, read_overrides, resolve, validate
from turbosparse.errors import ConfigError, DataError, TrainingDiverged, TurboSparseError
from turbosparse.masking import HIDDEN, hide_secrets, mask, names_secret
from turbosparse.train.launch.outcome import Transcript

CANARY = "canary-5f2c9a7e41"


@pytest.fixture(autouse=True)
def planted(monkeypatch):
    for name in ("AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "HF_TOKEN", "PREFECT_API_KEY"):
        monkeypatch.setenv(name, CANARY)
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "admin:canary-password")


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (f"the server said: bad key {CANARY}", f"the server said: bad key {HIDDEN}"),
        ("password canary-password of admin", f"password {HIDDEN} of admin"),
        ("s3://key:other-secret@bucket/runs", f"s3://{HIDDEN}@bucket/runs"),
        ("postgresql+asyncpg://prefect:hunter2@db:5432/x", f"postgresql+asyncpg://{HIDDEN}@db:5432/x"),
        ("https://h/x?X-Amz-Signature=abc123&a=1", f"https://h/x?X-Amz-Signature={HIDDEN}&a=1"),
        ("{'Authorization': 'Basic YWRtaW46eA=='}", f"{{'Authorization': 'Basic {HIDDEN}'}}"),
        ("AKIAIOSFODNN7EXAMPLE is unknown", f"{HIDDEN} is unknown"),
    ],
)
def test_secrets_are_replaced_and_what_stands_around_them_stays(text, masked):
    assert mask(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/runs/pretrain/0123456789abcdef",
        "hf://datasets/owner/name@0123abc/data/a.parquet",
        "step 12, loss 3.21, 4,096 tokens/s",
        "a bearer of news and a basic idea",
        "me@example.org",
    ],
)
def test_what_is_no_secret_stays(text):
    assert mask(text) == text


def test_names_of_tokens_that_a_tokenizer_knows_are_no_secrets():
    assert not any(map(names_secret, ("num_tokens", "data.num_tokens", "bos_token", "tokenizer", "PATH")))
    assert all(map(names_secret, ("HF_TOKEN", "wandb.api_key", "AWS_SECRET_ACCESS_KEY", "db_password")))


def test_errors_carry_no_secret_anywhere():
    error = DataError("corpora", {"api_key": "x", "uri": "s3://a:b@c"}, f"not {CANARY}", f"use {CANARY}")
    copy = pickle.loads(pickle.dumps(error))
    for found in (error, copy):
        assert CANARY not in json.dumps([str(found), found.value, found.expected, found.remedy])
        assert found.value == {"api_key": HIDDEN, "uri": f"s3://{HIDDEN}@c"}
    assert CANARY not in str(pickle.loads(pickle.dumps(TrainingDiverged(f"spike {CANARY}"))))


def test_a_value_given_under_a_secrets_name_is_not_repeated():
    with pytest.raises(ConfigError) as misplaced:
        validate(Placement, {"training": {"wandb": {"project": "p", "api_key": "new-secret"}}}, "a form")
    with pytest.raises(ConfigError) as in_pods:
        validate(
            JobSetConfig, {"namespace": "a", "image": "b", "environment": {"X_TOKEN": "new-secret"}}, "a"
        )
    for error in (misplaced, in_pods):
        assert "new-secret" not in str(error.value)
        assert HIDDEN in str(error.value)


def test_an_environment_of_pods_takes_no_secret_under_an_innocent_name():
    with pytest.raises(ConfigError, match="looks like a secret"):
        validate(JobSetConfig, {"namespace": "a", "image": "b", "environment": {"NOTE": CANARY}}, "a")


def test_a_misspelt_option_shows_no_secret():
    with pytest.raises(TurboSparseError) as error:
        resolve("tiny", read_overrides(None, [f"pretrain.note={CANARY}"]))
    assert CANARY not in str(error.value)


def test_log_records_are_masked_whoever_writes_them(caplog):
    hide_secrets()
    logging.getLogger("some.library").error("request with %s to %s failed", CANARY, "s3://a:b@c")
    try:
        raise RuntimeError(CANARY)
    except RuntimeError:
        logging.getLogger("another").exception("it failed")
    assert CANARY not in caplog.text
    assert f"request with {HIDDEN} to s3://{HIDDEN}@c failed" in caplog.text
    assert f"RuntimeError: {HIDDEN}" in caplog.text, "the traceback is there"


def test_a_record_whose_arguments_do_not_fit_is_left_to_logging():
    hide_secrets()
    record = logging.getLogRecordFactory()("name", logging.INFO, "file", 1, "%d of %d", ("one",), None)
    assert record.msg == "%d of %d"


def test_the_last_traceback_of_a_command_is_masked():
    script = f"from turbosparse.masking import hide_secrets; hide_secrets(); raise RuntimeError({CANARY!r})"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert f"RuntimeError: {HIDDEN}" in ended.stderr
    assert CANARY not in ended.stderr.replace(script, "")


def test_what_ranks_print_is_masked_in_logs_and_errors():
    lines: list[str] = []
    transcript = Transcript(lambda event: None, lines.append)
    transcript.read(f"botocore: signing with {CANARY}\n")
    assert lines == [f"botocore: signing with {HIDDEN}"]
    assert CANARY not in str(transcript.error(1))
