"""No function is jitted: each operation is a program of its own."""

import jax.numpy as jnp

x = jnp.ones((8, 8))
for _ in range(3):
    x = jnp.sin(x) + jnp.cos(x)
