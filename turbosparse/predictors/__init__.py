"""Activation predictors: their loss and labels, training after the fact, ranks, thresholds and quality."""
