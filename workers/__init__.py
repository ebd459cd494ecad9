"""The code of the pool processes: a ticket in, columns out.

Another package on the path may also be called `workers`. `mdstream.pool.pool`, the only importer, checks
`OWNER` before it uses the package.
"""

OWNER = "mdstream"

UNKEPT = "_MDSTREAM_KERNELS_UNKEPT"
"""Set in the environment of processes that cannot store compiled kernels on disk. They use the fallback
decoder, and each compiles for itself the few kernels that it needs.
"""
