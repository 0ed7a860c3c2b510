"""Memory of indexing as a function of course size."""
