"""An Alpaca-compatible server: four streams and the REST calls beside them, seeded, with faults."""
