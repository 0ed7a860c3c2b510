"""The pipeline: Dagster assets and sensors that embed courses when their chunks change."""
