"""Frames to Delta tables, as they come."""
