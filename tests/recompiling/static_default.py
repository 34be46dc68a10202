"""A growing argument beside a static one that is left to its default."""

from functools import partial

import jax
import numpy as np


@partial(jax.jit, static_argnames=("n",))
def step(x, n=3):
    return x * n


for size in range(8, 12):
    step(np.ones(size, np.float32))
