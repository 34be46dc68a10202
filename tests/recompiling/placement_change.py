"""The argument lies on another device each time."""

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=3"

import jax
import numpy as np


@jax.jit
def step(x):
    return x * 2


for device in jax.devices("cpu"):
    step(jax.device_put(np.ones(8, "float32"), device))
