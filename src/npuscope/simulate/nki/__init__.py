"""Runs NKI kernels, unmodified, and records the program that they stand for."""
