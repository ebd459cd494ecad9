"""Payloads to columns: compiled kernels, and the fallback decoder for what they do not know."""
