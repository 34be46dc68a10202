"""A number that changes is declared static."""

from functools import partial

import jax
import jax.numpy as jnp


@partial(jax.jit, static_argnames="position")
def step(x, position):
    return x * position


x = jnp.ones(8)
for position in range(4):
    step(x, position=position)
