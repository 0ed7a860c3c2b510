"""Looking after collections, for operators and for the pipeline: back up, restore, rebuild, check."""
