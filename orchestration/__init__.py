"""The pipeline: Dagster definitions that keep every course's collection in line with its chunks."""
