"""The embedding model, shared by all requests, and its routes."""
