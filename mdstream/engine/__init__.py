"""One run: the supervisor, and the processes that it starts, watches, measures and reports."""
