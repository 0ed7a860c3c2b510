"""Files → Ready-to-Embed chunks: reading of uploaded documents, and their division into passages."""
