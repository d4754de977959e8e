"""Which slides a run has: named, listed in tables, found in folders and by patterns."""
