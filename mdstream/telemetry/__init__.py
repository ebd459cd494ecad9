"""The engine's measurements of itself, kept as frames like any other data."""
