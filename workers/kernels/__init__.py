"""Compiled decoding: payload bytes to typed columns without a Python object in between.

    compiling    how kernels are compiled; kept: where their machine code is stored
    words        eight bytes at a time
    match_*      pass 1: the place of each value of each message, by the layouts learned so far
    values_*     pass 2: a column of places to a column of numbers
    texts        a column of places to a column of codes
    sides        absent quote sides, from finished columns
    partials     trades folded to partials
    bar_table    partials joined to bars, in the feed's process

Kernels read and write flat arrays and know no stream. `decoding.layouts` and `decoding.decoder` build these
arrays from the declarations in `mdstream.streams`.
"""
