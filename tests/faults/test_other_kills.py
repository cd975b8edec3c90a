"""Kills outside of the stages: commands on folders, uploads of checkpoints, promotions."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from commands import Bench, EndedTooSoon
from phases import num_rounds
from s3_server import BUCKET

from turbosparse.artifacts.files import record_files
from turbosparse.config import ModelConfig
from turbosparse.data.tokenizer import train_tokenizer
from turbosparse.model.convert import initial_model, with_predictors
from turbosparse.model.folder import save_model
from turbosparse.promotion import Champions
from turbosparse.train.checkpoints import CheckpointStore

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

SAVE = """
import sys
import torch
from turbosparse.artifacts import place
from turbosparse.train.checkpoints import CheckpointStore

place.PART_BYTES = 5 * 1024**2
store = CheckpointStore(sys.argv[1], "abc")
latest = store.latest()
for step in range(latest.step + 1 if latest else 1, 5):
    weight = torch.full((4_000, 1_000), float(step))
    store.save(step, {"w": weight, "step": torch.tensor(step)}, {"seen": step}, {"config.json": b"{}"})
"""

PROMOTE = """
import sys
from turbosparse.promotion import Champions

log = Champions(sys.argv[1])
while (last := log.last_number()) < 400:
    log.promote(f"export/{last:016x}", "named", after=last)
"""


def pytest_generate_tests(metafunc) -> None:
    """As many rounds as `--kills` asks for."""
    metafunc.parametrize("round_number", range(num_rounds(metafunc.config.getoption("--kills"))))


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    """A SwiGLU model's folder, and a dReLU model's with predictors."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = train_tokenizer(["An owl sees a fox at noon."] * 4, 300)
    sizes = {"num_heads": 4, "num_kv_heads": 2, "context_length": 64}
    small = {"hidden_size": 64, "intermediate_size": 128, "num_layers": 4}
    large = {"hidden_size": 256, "intermediate_size": 1_024, "num_layers": 16}  # copying it takes a while
    for name, own in (("swiglu", large), ("drelu", small)):
        model = initial_model(ModelConfig(**sizes, **own), tokenizer, name)
        save_model(model, folder / name)
        tokenizer.save_pretrained(folder / name)
    save_model(with_predictors(model, 8, seed=1), folder / "predictors")
    tokenizer.save_pretrained(folder / "predictors")
    return {path.name: str(path) for path in folder.iterdir()}


OURS = {"log", "tmp"}
"""What lies in a bench's folder before any command has run."""
NUM_TRIES = 5
"""Of killing before a command is done: on a busy machine, it may be seen too late."""
COMMANDS: dict[str, tuple[str, ...]] = {
    "convert": ("swiglu",),
    "predictors": (
        *("drelu", "--set", "rank=8", "--set", "post_hoc.num_tokens=20000"),
        *("--set", "threshold.num_tokens=1000"),
    ),
    "export": ("predictors", "--format", "powerinfer"),
}


def kill_while_writing(bench: Bench, command: list[str], seconds: float) -> None:
    """Kills a command so long after its first file or folder was seen, and waits for its processes."""
    bench.start(*command)
    earlier = {path.name for path in bench.folder.iterdir()} | OURS
    bench.wait_for(lambda: {path.name for path in bench.folder.iterdir()} - earlier)
    time.sleep(seconds)
    bench.kill("command")
    bench.check_nothing_runs()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_killed_command_leaves_no_folder_and_then_the_same(
    name, round_number, models, bench, tmp_path, dice, kills
):
    model, *options = COMMANDS[name]
    command = [name, models[model], "made", *options]
    whole = Bench(tmp_path / "whole")
    whole.start(*command)
    assert whole.finish() == 0, whole.said()
    made, expected = bench.folder / "made", record_files(whole.folder / "made")
    for _ in range(NUM_TRIES):
        kill_while_writing(bench, command, dice.uniform(0, 2.0 if name == "predictors" else 0.03))
        if not made.exists():
            break
        assert record_files(made) == expected, "a half-made folder is visible"
        shutil.rmtree(made)
    else:
        pytest.fail("every kill came too late")
    bench.start(*command)
    assert bench.finish() == 0, bench.said()
    assert {path.name for path in bench.folder.iterdir()} - OURS == {"made"}, "drafts are left"
    bench.check_nothing_is_left()
    assert record_files(made) == expected
    kills.append(f"turbosparse {name}: command killed while writing")


def run_until(script: str, *words: str, happens: Callable[[], bool], seconds: float) -> None:
    """Runs a script and kills it a moment after something has happened."""
    process = subprocess.Popen([sys.executable, "-c", script, *words])
    try:
        while not happens():
            if process.poll() is not None:
                raise EndedTooSoon(f"status {process.returncode}")
            time.sleep(0.005)
        time.sleep(seconds)
    finally:
        process.kill()
        process.wait()


def test_a_killed_upload_is_not_a_checkpoint(round_number, swift, s3, dice, kills):
    client, prefix = swift.client(), s3.removeprefix(f"s3://{BUCKET}/")

    def uploads() -> list[str]:
        found = client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
        return [upload["Key"] for upload in found if upload["Key"].startswith(prefix)]

    run_until(SAVE, s3, happens=uploads, seconds=dice.uniform(0, 0.3))
    latest = CheckpointStore(s3, "abc").latest()
    for step in [] if latest is None else [latest.step]:
        into = {"w": torch.zeros(4_000, 1_000)}
        CheckpointStore(s3, "abc").load(latest, into)
        assert (into["w"] == step).all()
    subprocess.run([sys.executable, "-c", SAVE, s3], check=True, timeout=300)
    resumed = CheckpointStore(s3, "abc")
    into = {"w": torch.zeros(4_000, 1_000)}
    resumed.load(resumed.latest(), into)
    assert (into["w"] == 4).all()
    assert not uploads(), "parts of the killed upload are still paid for"
    keys = [entry["Key"] for entry in client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)["Contents"]]
    assert {key.removeprefix(f"{prefix}/").split("/")[0] for key in keys} == {
        "step-00000003",
        "step-00000004",
    }
    kills.append("checkpoint store: process killed while uploading to S3")


def test_a_killed_promotion_is_none_or_whole(round_number, tmp_path, dice, kills):
    root = tmp_path / "runs"
    root.mkdir()
    wanted = dice.randint(1, 200)
    run_until(
        PROMOTE,
        str(root),
        happens=lambda: (root / ".champion" / f"{wanted}.json").exists() or _num_files(root) >= wanted,
        seconds=dice.uniform(0, 0.01),
    )
    history = Champions(str(root)).history()
    assert [promotion.number for promotion in history] == list(range(1, len(history) + 1))
    assert wanted <= len(history) < 400, "the kill came too late"
    subprocess.run([sys.executable, "-c", PROMOTE, str(root)], check=True, timeout=300)
    assert Champions(str(root)).current().number == 400
    kills.append("champion: process killed while promoting")


def _num_files(root: Path) -> int:
    return len(list((root / ".champion").glob("*.json")))
