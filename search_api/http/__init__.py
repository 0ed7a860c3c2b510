"""What applies to every route: token, body limit, errors, request parsing, shutdown."""
