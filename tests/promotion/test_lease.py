"""The lease: one retraining at a time, and a dead one's is passed over."""

import time

import pytest

from turbosparse.artifacts.numbered import NumberedFiles
from turbosparse.promotion.lease import (
    FOLDER,
    LeaseRecord,
    RetrainingUnderWay,
    check_free,
    holding_lease,
    take_lease,
)

LONG, SHORT = 60.0, 0.05


@pytest.fixture(params=["disk", "memory", "s3"])
def root(request, tmp_path) -> str:
    if request.param == "s3":
        return request.getfixturevalue("s3")
    return str(tmp_path) if request.param == "disk" else f"memory://{tmp_path.name}/runs"


def test_a_second_holder_is_told_who_holds_it_and_until_when(root):
    with (
        holding_lease(root, "first", LONG),
        pytest.raises(RetrainingUnderWay, match="held by first until"),
        holding_lease(root, "second", LONG),
    ):
        pytest.fail("both hold it")


def test_it_is_free_again_when_its_holder_ends_even_by_an_error(root):
    with pytest.raises(RuntimeError), holding_lease(root, "first", LONG):
        raise RuntimeError("the training failed")
    check_free(root)
    with holding_lease(root, "second", LONG), pytest.raises(RetrainingUnderWay):
        check_free(root)


def test_one_that_died_without_a_word_is_passed_over_and_notices(root):
    dead = take_lease(root, "first", SHORT)
    time.sleep(2 * SHORT)
    living = take_lease(root, "second", LONG)
    living.check()
    dead.renew()  # it was only away
    with pytest.raises(RetrainingUnderWay, match="held by second"):
        dead.check()
    with pytest.raises(RetrainingUnderWay, match="held by second"):
        take_lease(root, "third", LONG)


def test_a_living_holder_renews_its_lease(tmp_path):
    file = tmp_path / FOLDER / "000001.json"
    with holding_lease(str(tmp_path), "first", seconds=1.5):
        taken = LeaseRecord.model_validate_json(file.read_bytes())
        deadline = time.monotonic() + 60
        while file.read_bytes() == taken.model_dump_json(indent=2).encode():
            assert time.monotonic() < deadline, "it was never renewed"
            time.sleep(0.05)
        renewed = LeaseRecord.model_validate_json(file.read_bytes())
    assert (renewed.holder, renewed.released) == ("first", False)
    assert renewed.expires_at > taken.expires_at


def test_the_same_flow_run_takes_over_its_own(root):
    take_lease(root, "flow run 7", LONG)
    take_lease(root, "flow run 7", LONG).check()


def test_of_two_that_saw_it_free_one_gets_it(tmp_path, monkeypatch):
    """Both looked before either wrote."""
    take_lease(str(tmp_path), "first", LONG).release()
    monkeypatch.setattr(NumberedFiles, "last", lambda files: 1)
    take_lease(str(tmp_path), "second", LONG)
    with pytest.raises(RetrainingUnderWay, match="held by second"):
        take_lease(str(tmp_path), "third", LONG)


def test_readers_never_see_half_a_renewal(tmp_path, monkeypatch):
    lease = take_lease(str(tmp_path), "first", LONG)
    file = tmp_path / FOLDER / "000001.json"
    inode = file.stat().st_ino
    lease.renew()
    assert file.stat().st_ino != inode, "it was written over in place"
    assert [path.name for path in file.parent.iterdir()] == [file.name]
