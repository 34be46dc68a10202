"""One function; whether the next process finds it is up to the persistent cache."""

import jax
import jax.numpy as jnp


@jax.jit
def step(x):
    return jnp.tanh(x @ x.T)


step(jnp.ones((8, 8)))
