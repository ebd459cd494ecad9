"""Columns to bars, newest rows and book levels."""
