"""Pure functions over scores: intervals, aggregates, ranks."""
