"""Model directories on disk: what they contain, downloads, and the demo model."""
