"""Text that people write and read: durations, names that are nearly right, keys that must not show."""
