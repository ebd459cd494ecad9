"""The streaming protocol as a core without I/O: bytes in, events and bytes to send out.

Nothing in here opens a socket, reads a clock or draws a random number.
"""
