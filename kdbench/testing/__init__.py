"""The contract that every method is held to."""
