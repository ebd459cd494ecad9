"""Facts about Alpaca's market data service, and nothing else.

endpoints   hosts, and which belong together
auth        header and variable names of a key, the message that authenticates
refusals    error codes of the stream, HTTP statuses, bodies that are no data: what each means
bodies      keys of messages and bodies: the type, the symbol, the token of the next page
parameters  query parameters of REST, and their form of times
short_maps  control messages whose msgpack map is shorter than its header says
limits      requests a minute and their headers, rows a page, symbols and bytes a request
sessions    when each data feed has data: regular hours, holidays, half days, nights
trading_days  the days on which US venues trade
timeframes  timeframes of historical bars, and their adjustments

Tables and small pure functions. Nothing here opens a socket or reads a clock. The rest of mdstream is not
needed, except for its errors. Paths and columns of streams are in their declarations (`mdstream.streams`).
Compiled kernels get these names as arguments; `wire.codec` repeats the control types as bytes.
"""
