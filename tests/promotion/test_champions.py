"""The champion's log: one winner, a way back, on disks and object stores alike."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from turbosparse.errors import ArtifactError
from turbosparse.promotion import Champions

FIRST, SECOND, THIRD = (f"export/{digit * 16}" for digit in "abc")


@pytest.fixture(params=["disk", "memory", "s3"])
def root(request, tmp_path) -> str:
    if request.param == "s3":
        return request.getfixturevalue("s3")
    return str(tmp_path) if request.param == "disk" else f"memory://{tmp_path.name}/runs"


def promoted(root: str, *names: str) -> Champions:
    champions = Champions(root)
    for number, name in enumerate(names):
        champions.promote(name, "retrained", after=number, preset="tiny")
    return champions


def test_a_root_begins_without_a_champion(root):
    assert Champions(root).current() is None
    assert Champions(root).last_number() == 0


def test_the_last_promotion_counts_wherever_it_is_read(root):
    promoted(root, FIRST, SECOND)
    current = Champions(root).current()
    assert (current.champion, current.number, current.preset) == (SECOND, 2, "tiny")


def test_whoever_decided_on_an_older_champion_is_refused(root):
    champions = promoted(root, FIRST, SECOND)
    with pytest.raises(ArtifactError, match="promotion 2 is taken"):
        champions.promote(THIRD, "retrained", after=1)
    assert champions.current().champion == SECOND


def test_of_many_at_the_same_moment_one_is_promoted(tmp_path):
    def promote(digit: str) -> bool:
        try:
            Champions(str(tmp_path)).promote(f"export/{digit * 16}", "retrained", after=0)
        except ArtifactError:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        outcomes = list(threads.map(promote, "01234567"))
    assert outcomes.count(True) == 1
    assert Champions(str(tmp_path)).current().champion == f"export/{str(outcomes.index(True)) * 16}"
    assert len(Champions(str(tmp_path)).history()) == 1


def test_rolling_back_returns_to_the_one_before_and_goes_on_from_there(root):
    champions = promoted(root, FIRST, SECOND, THIRD)
    assert champions.roll_back().champion == SECOND
    assert champions.roll_back().champion == FIRST, "twice back is two steps, not to and fro"
    assert champions.withdrawn() == {SECOND, THIRD}
    champions.promote(THIRD, "named", after=5)
    assert [promotion.champion for promotion in champions.standing()] == [FIRST, THIRD]
    assert champions.withdrawn() == {SECOND}
    assert [promotion.number for promotion in champions.history()] == [1, 2, 3, 4, 5, 6]


def test_rolling_back_to_a_number_passes_over_those_between(root):
    champions = promoted(root, FIRST, SECOND, THIRD)
    assert champions.roll_back(to=1).champion == FIRST
    with pytest.raises(ArtifactError, match="none there is"):
        champions.roll_back()


@pytest.mark.parametrize("to", [0, 2, 3, 9])
def test_there_is_no_way_back_to_what_does_not_stand(tmp_path, to):
    champions = promoted(str(tmp_path), FIRST, SECOND)
    with pytest.raises(ArtifactError, match="earlier promotion that stands"):
        champions.roll_back(to)
    assert champions.current().champion == SECOND


def test_a_damaged_entry_is_named(tmp_path):
    champions = promoted(str(tmp_path), FIRST)
    (tmp_path / ".champion" / "000001.json").write_text('{"number": 1}')
    with pytest.raises(ArtifactError, match=r"000001\.json"):
        champions.current()
