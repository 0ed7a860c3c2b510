"""Search within one course: vector and keyword scores, fusion, reranking, and the in-memory caches."""
