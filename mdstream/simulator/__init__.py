"""An Alpaca-compatible server: streams and REST calls, seeded, with faults."""
