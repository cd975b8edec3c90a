"""Levers beyond the paper's recipe, as losses and activations that any training run can use."""

from turbosparse.train.levers.distillation import distillation_loss, load_teacher
from turbosparse.train.levers.levers import Levers

__all__ = ["Levers", "distillation_loss", "load_teacher"]
