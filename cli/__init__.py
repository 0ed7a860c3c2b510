"""The command line `course-search`."""
