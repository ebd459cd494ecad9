"""What is kept on disk: Delta tables, journals, rejects; and how they are read."""
