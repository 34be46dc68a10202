"""Jits a function in processes of its own, which are started as its first argument says; `none` does it here."""

import multiprocessing
import subprocess
import sys


def work():
    import jax
    import numpy as np

    jax.jit(lambda x: x * 2)(np.ones(3, "float32"))


if __name__ == "__main__":
    kind = sys.argv[1]
    if kind == "none":
        work()
    elif kind == "subprocess":
        subprocess.run([sys.executable, __file__, "none"], check=True)
    else:
        each = [multiprocessing.get_context(kind).Process(target=work) for _ in range(2)]
        for one in each:
            one.start()
        for one in each:
            one.join()
