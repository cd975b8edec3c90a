"""Files that other engines run."""
