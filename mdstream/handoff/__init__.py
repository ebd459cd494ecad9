"""Hand-off: payload bytes cross to the workers, and columns come back, in shared memory."""
