"""Benchmarks, each a question about speed with a reproducible answer: `python -m benchmarks NAME`."""
