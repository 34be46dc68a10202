"""A setting that is part of the program changes between calls."""

import jax
import jax.numpy as jnp


@jax.jit
def step(x):
    return x @ x.T


x = jnp.ones((8, 8))
for precision in ("float32", "bfloat16", "tensorfloat32"):
    jax.config.update("jax_default_matmul_precision", precision)
    step(x)
