"""The parts of which :mod:`minirnn.export.to_numpy` puts programs together: ordinary functions on NumPy arrays.

A program gets the functions that it calls, as they stand here. A line, or a function by its first line, that ends with
``# if NAME ...`` is kept only in programs with one of these features, one with ``# unless NAME ...`` in all others.
What stands in :mod:`.data` is written for each model.
"""
