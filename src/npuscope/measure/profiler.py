"""The Python interface: a profiler object for a few shapes, as in the public matmul profiler.

profiler = MatmulProfiler(device="cpu")
result = profiler.profile_single_matmul(MatmulConfig(M=1024, K=4096, N=4096), warmup=5, iterations=20)
print(result.latency_ms, result.total_tiles)
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from npuscope._files import write_text_atomically
from npuscope.backends.base import Backend, BackendOptions
from npuscope.backends.registry import open_auto, open_device
from npuscope.errors import MeasurementError, UsageError
from npuscope.formats.results import ResultRow, csv_text
from npuscope.measure.provenance import collect
from npuscope.measure.session import Plan, create_session
from npuscope.measure.settings import Settings
from npuscope.measure.sweep import run_sweep
from npuscope.workloads.matmul import MatmulConfig


class MatmulProfiler:
    """Measures matmuls on one device.

    Args:
        device: A device name, or `auto`: the first real NPU, else `cpu`, and `profiler.chosen` says which and why.
        use_neuron: The older spelling: True is device `neuron`, False is device `cpu`. There is no fallback.
        compiler_log: Keep the compiler's verbose log and work folder here (device `neuron`).

    Raises:
        UsageError: No such device.
        UnavailableError: The device cannot be had here.
    """

    def __init__(
        self, device: str = "auto", *, use_neuron: bool | None = None, compiler_log: Path | None = None
    ) -> None:
        options = BackendOptions(compiler_log=compiler_log)
        if use_neuron is not None:
            if device != "auto":
                raise UsageError("give device or use_neuron, not both")
            device = "neuron" if use_neuron else "cpu"
        self._backend: Backend
        if device == "auto":
            self._backend, self.chosen = open_auto(options)
        else:
            self._backend = open_device(device, options)
            self.chosen = f"device: {self._backend.name}"

    @property
    def device(self) -> str:
        """The device that every result comes from."""
        return self._backend.name

    def profile_single_matmul(
        self,
        config: MatmulConfig,
        warmup: int | None = None,
        iterations: int | None = None,
        *,
        precision: float = 0.01,
        max_seconds: float = 2.0,
        seed: int = 0,
    ) -> ResultRow:
        """Measure one matmul; counts that are None adapt to the wanted precision.

        Raises:
            MeasurementError: The device cannot run it, or its result is wrong.
        """
        settings = Settings(warmup, iterations, precision, max_seconds, seed)
        (row,) = self.profile([config], settings)
        if row.status != "ok":
            raise MeasurementError(row.error)
        return row

    def profile(
        self,
        configs: Iterable[MatmulConfig],
        settings: Settings | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> list[ResultRow]:
        """Measure several matmuls, interleaved; a failing one is a row with status `failed`."""
        plan = Plan(self.device, tuple(configs), settings or Settings())
        with tempfile.TemporaryDirectory(prefix="npuscope-") as scratch:
            session = create_session(Path(scratch) / "run", plan, self._backend.describe(), collect())
            for _ in run_sweep(self._backend, session, progress or _silent):
                pass
            rows = [session.rows[index] for index in sorted(session.rows)]
            session.close(complete=True)
        return rows

    def save_results_to_csv(self, results: Sequence[ResultRow], path: str | os.PathLike[str]) -> None:
        """Write results.csv, making its folder; the first eight columns are the public profiler's.

        Raises:
            OutputError: The file cannot be written.
        """
        from npuscope.errors import OutputError

        target = Path(path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{target.parent} cannot be made: {error.strerror}") from error
        write_text_atomically(target, csv_text(results))


NPUMatmulProfiler = MatmulProfiler
"""The name that the public matmul profiler gave it."""


def _silent(_: str) -> None:
    """Show no progress."""
