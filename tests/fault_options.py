"""How many kills `pytest -m faults` makes, and where its dice start."""

NUM_KILLS, SEED = 14, 20


def pytest_addoption(parser) -> None:
    """Adds `--kills` and `--fault-seed`."""
    group = parser.getgroup("faults")
    group.addoption("--kills", type=int, default=NUM_KILLS, help="kills that the fault suite makes, at least")
    group.addoption("--fault-seed", type=int, default=SEED, help="decides the moments of the kills")
