"""What runs inside the pool processes: a ticket in, columns out.

The name `workers` is easily taken by something else on the path; `mdstream.pool`, the only importer,
checks `OWNER` before it trusts what it found.
"""

OWNER = "mdstream"
