"""Cleaning: exact and near duplicates, overlap with evaluation sets, and rules of quality."""
