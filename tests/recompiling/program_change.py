"""Python decides while tracing how often a step is repeated."""

import jax
import jax.numpy as jnp


def make(count):
    def step(x):
        for _ in range(count):
            x = jnp.sin(x)
        return x

    return jax.jit(step)


x = jnp.ones(8)
for count in (1, 2, 3):
    make(count)(x)
