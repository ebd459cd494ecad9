"""An Alpaca-compatible server: the streams and the REST calls beside them, seeded, with faults."""
