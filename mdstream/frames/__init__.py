"""Frames: append-only columnar tables in shared memory, one writer, any number of readers."""
