"""Plots and reports of what was measured."""
