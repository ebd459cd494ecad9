"""Hand-off: payloads to the workers and columns back, both in shared memory."""
