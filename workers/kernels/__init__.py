"""Compiled decoding: payload bytes to typed columns without a Python object in between.

    compiling    how kernels are compiled
    words        eight bytes at a time
    match_*      pass 1: where each value of each message stands, by the layouts learned so far
    values_*     pass 2: a column of places to a column of numbers
    texts        a column of places to a column of codes
    sides        what follows from finished columns: absent quote sides
    partials     trades folded to partials
    bar_table    partials joined to bars, in the feed's process

Kernels read and write flat arrays and know no stream. `decoding.layouts` and `decoding.decoder` make
these arrays from the declarations in `mdstream.streams`.
"""
