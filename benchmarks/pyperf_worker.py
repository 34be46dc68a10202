"""The call that `against_pyperf` gives to pyperf; started by it, and by pyperf again for each worker."""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
import pyperf

from npuscope.measure.numerics import make_inputs
from npuscope.workloads.matmul import parse_shape


def _pass_on(command: list[str], arguments: argparse.Namespace) -> None:
    command.extend(["--shape", arguments.shape])


def main() -> None:
    runner = pyperf.Runner(add_cmdline_args=_pass_on)
    runner.argparser.add_argument("--shape", required=True)
    config = parse_shape(runner.parse_args().shape)
    a, b = make_inputs(config, seed=0)
    out = np.empty((config.M, config.N), a.dtype)
    runner.bench_func("matmul", partial(np.matmul, a, b, out=out))


if __name__ == "__main__":
    main()
