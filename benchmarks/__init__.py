"""Questions about speed, each with a reproducible answer: `python -m benchmarks NAME`."""
