"""Routes for operators: health, metrics and caches."""
