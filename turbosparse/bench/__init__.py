"""Measurements of this project against what it would replace, side by side in one run."""
