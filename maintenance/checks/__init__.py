"""What `course-search doctor` checks and repairs."""
