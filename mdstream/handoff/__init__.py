"""Hand-off: payloads go to the workers and columns come back, both in shared memory."""
