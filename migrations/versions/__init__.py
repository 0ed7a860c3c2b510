"""The migrations: one file per schema change, ordered by number."""
