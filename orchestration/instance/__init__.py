"""The Dagster instance: its configuration files, and the mark that `orchestration.prepare` sets."""
