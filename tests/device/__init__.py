"""What the tests of every device share."""

import numpy as np

from npuscope.measure.session import Plan, create_session
from npuscope.measure.settings import Settings
from npuscope.measure.sweep import run_sweep
from npuscope.workloads.dtypes import numpy_dtype
from npuscope.workloads.matmul import MatmulConfig

QUICK = Settings(iterations=5, warmup=1)
SHAPE = (17, 33, 9)
"""Three different odd edges: a transposed operand or a swapped dimension cannot go unseen."""
WORST_ERROR = {"float32": 1e-6, "float16": 1e-3, "bfloat16": 5e-3, "int8": 0.0}
"""Largest error over the accumulated mass |A||B| that a right result of `SHAPE` has; a wrong one has 0.1 and more."""


def config(dtype="float32", shape=SHAPE):
    return MatmulConfig(*shape, dtype)


def multiply(executable, workload, seed=1):
    """Largest error over |A||B| of one run, computed here and not by npuscope's own check."""
    rng = np.random.default_rng(seed)
    kind = numpy_dtype(workload.dtype)
    a, b = (
        (rng.integers(-99, 100, shape) if workload.dtype == "int8" else rng.standard_normal(shape)).astype(kind)
        for shape in ((workload.M, workload.K), (workload.K, workload.N))
    )
    output = executable.run(executable.place(a, b))
    executable.synchronise(output)
    result = executable.fetch(output)
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    assert result.shape == (workload.M, workload.N)
    return float(np.max(np.abs(result.astype(np.float64) - wide_a @ wide_b) / (np.abs(wide_a) @ np.abs(wide_b))))


def measure(backend, folder, *configs, settings=QUICK):
    """The rows of a sweep on a backend that has no name in the registry."""
    session = create_session(folder / "run", Plan(backend.name, configs, settings), backend.describe(), {})
    rows = list(run_sweep(backend, session, lambda _: None))
    session.close(complete=True)
    return sorted(rows, key=lambda row: configs.index(MatmulConfig(row.M, row.K, row.N, row.dtype)))
