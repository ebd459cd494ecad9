"""The code of the pool processes: a ticket in, columns out.

The name `workers` is easily taken by something else on the path. `mdstream.pool.pool`, the only importer,
checks `OWNER` before it trusts what it found.
"""

OWNER = "mdstream"

UNKEPT = "_MDSTREAM_KERNELS_UNKEPT"
"""Set in the environment of processes that cannot keep compiled kernels on disk. They use the fallback
decoder, and each compiles for itself the little that it cannot do without.
"""
