"""Decoding that reads active neurons only."""
