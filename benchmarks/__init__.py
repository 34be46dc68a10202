"""Benchmarks: what npuscope costs, and how its figures compare with another tool's."""
