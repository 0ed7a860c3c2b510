"""Maintenance of collections: backup, restore, rebuild, and the checks of `course-search doctor`."""
