"""Searching a course."""
