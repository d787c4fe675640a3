"""Sweeps: which settings the trials' records choose, and whether a published choice is the best of its trials."""
