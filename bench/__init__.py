"""Measurements, run by `make bench`; none of it is part of the library."""
