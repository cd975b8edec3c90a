"""Which model of a root is in use: the champion, the gate before it, and one retraining at a time."""

from turbosparse.promotion.champions import Champions, Promotion, champions_artifacts
from turbosparse.promotion.lease import Lease, RetrainingUnderWay

__all__ = ["Champions", "Lease", "Promotion", "RetrainingUnderWay", "champions_artifacts"]
