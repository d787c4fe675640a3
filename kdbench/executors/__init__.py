"""Where cohorts run."""
