"""Frames: columnar tables in shared memory with one writer and any number of readers."""
