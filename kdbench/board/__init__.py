"""From records to tables, statistics, pages and published folders."""
