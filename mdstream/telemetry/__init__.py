"""The engine's measurements of itself, kept as frames like all other data."""
