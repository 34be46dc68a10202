"""A number that a function closes over is written into the program."""

import jax
import jax.numpy as jnp


def make(scale):
    return jax.jit(lambda x: x * scale)


x = jnp.ones(8)
for scale in (0.5, 0.25, 0.125, 0.0625):
    make(scale)(x)
