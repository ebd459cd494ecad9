"""What mdstream keeps on disk: Delta tables, journals and rejects, and how to read them."""
