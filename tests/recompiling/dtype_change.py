"""Two types take turns."""

import jax
import jax.numpy as jnp


@jax.jit
def step(x):
    return x * 2 + 1


for dtype in ("float32", "bfloat16", "float32", "bfloat16"):
    step(jnp.ones(8, dtype))
