"""The checks and repairs of `course-search doctor`."""
