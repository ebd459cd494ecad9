"""One stream's process: receives, hands off, commits. Start reading at `feed.py`."""
