"""Records questions and feedback, if QUERY_LOG is on."""
