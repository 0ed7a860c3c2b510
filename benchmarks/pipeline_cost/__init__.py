"""Cost of orchestration, compared with a plain script."""
