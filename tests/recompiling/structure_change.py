"""A key comes and goes in a dictionary of arguments."""

import jax
import jax.numpy as jnp


@jax.jit
def step(batch):
    return sum(batch.values())


x = jnp.ones(8)
for batch in ({"x": x}, {"x": x, "mask": x}, {"x": x, "bias": x}):
    step(batch)
