"""Servers that tests start: Chroma, PostgreSQL, a fake hub, embedding services, and any ASGI app."""
