"""What a search consists of: keyword and vector scores of a course, their fusion, reranking, caches."""
