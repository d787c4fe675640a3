"""What papers report, and their tables run again."""
