"""The code of the pool processes: a ticket in, columns out.

Another package on the path may also be called `workers`. `mdstream.pool.pool`, the only importer, checks
`OWNER` before it uses the package.
"""

OWNER = "mdstream"
