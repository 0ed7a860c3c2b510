"""The search app: an HTTP API over the catalogue, the collections, the snapshots and the embedding model.

It never calls the pipeline; both share the catalogue, the vector store and the snapshots.
"""
