"""A run's log: what is logged here and on workers, one JSON object a line."""
