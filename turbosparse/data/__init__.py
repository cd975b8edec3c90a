"""Text and instructions: from their sources to shards that training streams."""
