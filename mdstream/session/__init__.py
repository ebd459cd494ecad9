"""Sessions: sockets, clocks and retries around the protocol, for the stream and for REST."""
