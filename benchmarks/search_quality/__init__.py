"""Search quality on retrieval sets."""
