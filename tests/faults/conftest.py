"""What the kills share: one Prefect server, texts in a bucket, and a pipeline that nothing has disturbed."""

import json
import random
import socket
from collections.abc import Callable, Iterator
from string import ascii_lowercase

import pytest
from commands import Bench, Undisturbed
from disks import Disk
from s3_server import BUCKET, S3Server

from tasks.server import prefect_api

SETTINGS = {
    "data.mixture": "{wanjuan-cc: 75, github-code: 25}",
    "data.num_tokens": 60_000,
    "data.sequence_length": 64,
    "data.vocab_size": 400,
    "data.group_bytes": 20_000,
    "data.num_held_back_documents": 4,
    "model.num_layers": 2,
    "convert.source": "random",
    "convert.base": "null",
    "pretrain.num_steps": 40,
    "pretrain.warmup_steps": 2,
    "finetune.num_steps": 8,
    "finetune.warmup_steps": 1,
    "finetune.sequence_length": 128,
    "finetune.max_conversations": 200,
    "finetune.predictor.rank": 16,
    "evaluate.limit": 4,
    "evaluate.num_sparsity_tokens": 512,
    "export.num_check_tokens": 4,
    "export.num_timed_tokens": 4,
}
PLACES = {"checkpoint_interval_steps": 5, "supervision.preemption_grace_seconds": 5}


def pytest_configure(config) -> None:
    """Opens the list of kills."""
    config.kills = []


def pytest_terminal_summary(terminalreporter, config) -> None:
    """Says which kills were survived."""
    if config.kills:
        terminalreporter.section(f"{len(config.kills)} kills survived")
        for kill in config.kills:
            terminalreporter.line(kill)


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory) -> Iterator[None]:
    """A Prefect server that this process's environment leads to."""
    with prefect_api(tmp_path_factory.mktemp("prefect")) as wait_until_ready:
        wait_until_ready()
        yield


@pytest.fixture(scope="session")
def bucket(swift: S3Server) -> Iterator[str]:
    """Documents on an object store, where commands find it."""
    dice = random.Random(3)
    vocabulary = ["".join(dice.choices(ascii_lowercase, k=dice.randint(3, 8))) for _ in range(2_000)]
    client, prefix = swift.client(), "faults/corpora"
    for name in ("web.jsonl", "code.jsonl"):
        rows = [{"text": " ".join(_sentence(dice, vocabulary) for _ in range(6))} for _ in range(1_500)]
        client.put_object(
            Bucket=BUCKET, Key=f"{prefix}/{name}", Body="\n".join(map(json.dumps, rows)).encode()
        )
    mapping = b"web.jsonl: wanjuan-cc\ncode.jsonl: github-code\n"
    client.put_object(Bucket=BUCKET, Key=f"{prefix}/sources.yaml", Body=mapping)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in swift.environment.items():
            patch.setenv(name, value)
        yield f"s3://{BUCKET}/{prefix}"


def _sentence(dice: random.Random, vocabulary: list[str]) -> str:
    # Prose by its form: cloze items are made of it.
    return f"{' '.join(dice.choices(vocabulary, k=10)).capitalize()}."


@pytest.fixture(scope="session")
def words(bucket, tmp_path_factory) -> list[str]:
    """Options that every stage's command has."""
    file = tmp_path_factory.mktemp("instructions") / "rows.jsonl"
    rows = [
        {"question": f"What is number {n}?", "answer": f"The number after {n - 1} and before {n + 1}."}
        for n in range(300)
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    options = ["--preset", "tiny", "--root", "runs", "--corpora", bucket, "--instructions", str(file)]
    options += [word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}")]
    return options + [word for name, value in PLACES.items() for word in ("--place", f"{name}={value}")]


@pytest.fixture(scope="session")
def undisturbed(prefect_server, words, tmp_path_factory) -> Iterator[Undisturbed]:
    """Stages that ran through, each when it is first asked for."""
    bench = Bench(tmp_path_factory.mktemp("undisturbed") / "bench")
    yield Undisturbed(bench, words)
    bench.end()


@pytest.fixture
def bench(tmp_path) -> Iterator[Bench]:
    """A root and commands of one's own; what runs there ends with the test."""
    made = Bench(tmp_path / "bench")
    yield made
    made.end()


@pytest.fixture
def kills(request) -> list[str]:
    """Receives the kills that were survived, for the summary."""
    return request.config.kills


@pytest.fixture
def dice(request) -> random.Random:
    """Dice that fall the same way for the same test and `--fault-seed`."""
    return random.Random(f"{request.config.getoption('--fault-seed')} {request.node.name}")


@pytest.fixture
def make_disk(tmp_path) -> Iterator[Callable[[int], Disk]]:
    """Makes disks that are gone after the test."""
    made: list[Disk] = []

    def make(size_mib: int) -> Disk:
        made.append(Disk(tmp_path / f"disk-{len(made)}", size_mib))
        return made[-1]

    yield make
    for disk in made:
        disk.unmount()


@pytest.fixture
def free_port() -> int:
    """A port of this machine where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
