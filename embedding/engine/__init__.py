"""The forward pass: token ids → unit vectors, with batching, attention, number formats and threads."""
