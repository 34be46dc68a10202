"""Functions for SCRIPT.py:FUNCTION: one that recompiles, one that does not."""

import itertools

import jax
import numpy as np

lengths = itertools.count(4)


@jax.jit
def double(x):
    return x * 2


def steady():
    return double(np.ones(3, "float32"))


def growing():
    return double(np.ones(next(lengths), "float32"))
