"""An Alpaca-compatible server: all four streams and the REST calls beside them, seeded, with faults on demand."""
