"""An array in one call, a Python number in the next."""

import jax
import jax.numpy as jnp


@jax.jit
def step(x, scale):
    return x * scale


x = jnp.ones(8)
for scale in (jnp.float32(2), 2.0, jnp.float32(3), 3.0):
    step(x, scale)
