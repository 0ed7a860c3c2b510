"""Client of an embedding service that is reached over HTTP."""
