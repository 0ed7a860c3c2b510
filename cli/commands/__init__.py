"""The subcommands of `course-search`, one module per command."""
