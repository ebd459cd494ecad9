"""One run: the supervisor and what it starts, watches, measures and reports."""
