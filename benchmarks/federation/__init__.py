"""Measurements of a federation over Flower: load, faults, distance between hosts."""
