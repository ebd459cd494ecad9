"""Facts about Alpaca's market data service, and nothing else.

endpoints   which hosts there are, and which belong together
auth        header and variable names of a key, the message that authenticates
error_codes error codes of the stream and statuses of HTTP: what each is about, whether it is final
bodies      keys of messages and bodies: the type, the symbol, the token of the next page
parameters  query parameters of REST and how times are written in them
limits      requests a minute and the headers that say so, rows a page, symbols and bytes a request
hours       when US exchanges are open
timeframes  which bars history has, and their adjustments

Tables and small pure functions. Nothing here opens a socket, reads a clock, or knows how mdstream is made.
Paths and columns of single streams are in their declarations (`mdstream.streams`). Compiled kernels take
these names as arguments; `wire.codec` repeats the control types as bytes.
"""
