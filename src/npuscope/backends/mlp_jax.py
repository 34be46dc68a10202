"""The gated MLP in JAX, fused into one program and as five of them; and a user's JAX function for the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from npuscope.backends.base import CacheStatus
from npuscope.backends.jax_programs import JaxProgram, JaxProgramBackend
from npuscope.backends.kernels import KernelRequest, as_result, told_of_user
from npuscope.errors import MeasurementError, shorten
from npuscope.formats.hlo_reader import parse_hlo

Array = npt.NDArray[Any]
_Plan = Callable[[Sequence[Callable[..., Any]], Any], Any]
HLO_NAME: Final = "graph.hlo"


class JaxKernel:
    """One or more programs, compiled ahead of time, and how results of one become arguments of the next."""

    def __init__(
        self,
        functions: Sequence[Callable[..., Any]],
        request: KernelRequest,
        *,
        shapes: Sequence[Sequence[tuple[int, ...]]] | None = None,
        plan: _Plan | None = None,
    ) -> None:
        """Compile all of them.

        Args:
            functions: In any order; one of its own is called with the inputs.
            request: For which sizes, on which device.
            shapes: Of the arguments of each function; None is the inputs for the only one.
            plan: Calls the compiled programs with the placed inputs, and returns what the last one returned.

        Raises:
            MeasurementError: One of them does not trace, or XLA refuses it.
        """
        self._request = request
        self._plan = plan or (lambda programs, placed: programs[0](*placed))
        self.backend = JaxProgramBackend(request.device, request.options)
        taken = shapes or [request.shapes]
        programs = [self._compiled(function, each) for function, each in zip(functions, taken, strict=True)]
        self._programs = programs
        self._calls = [program.call for program in programs]
        statuses = {program.report.cache for program in programs}
        cache = programs[0].report.cache if len(statuses) == 1 else CacheStatus.MISS
        total_ns = sum(program.report.duration_ns for program in programs)
        self.report = replace(programs[0].report, duration_ns=total_ns, cache=cache)

    def _compiled(self, function: Callable[..., Any], shapes: Sequence[tuple[int, ...]]) -> JaxProgram:
        request = self._request
        try:
            return self.backend.compile_function(function, shapes, request.config.dtype, request.config.text)
        except MeasurementError as error:
            if request.is_user_code and error.__cause__ is not None:
                raise MeasurementError(told_of_user(error.__cause__, request.target)) from error
            raise

    def place(self, inputs: Sequence[Array]) -> Any:
        """Copy to the device and wait for the copy."""
        return self._programs[0].place(self._request.arrange(inputs))

    def run(self, placed: Any) -> Any:
        """Dispatch; JAX returns before the device has finished."""
        return self._plan(self._calls, placed)

    def synchronise(self, output: Any) -> None:
        """Wait for every result."""
        import jax

        jax.block_until_ready(output)

    def fetch(self, output: Any) -> Array:
        """Copy to the host."""
        try:
            host = [np.asarray(leaf) for leaf in output] if isinstance(output, tuple | list) else np.asarray(output)
        except Exception as error:
            raise MeasurementError(f"{self._request.target} returned no array: {shorten(str(error))}") from error
        return self._request.result(as_result(host, self._request.target))

    def save(self, folder: Path) -> None:
        """`graph.hlo`, or one a program, as JAX lowered them, before XLA optimised anything; as often as one is called."""
        kept = [program.hlo for program in self._programs if program.hlo is not None]
        for number, hlo in enumerate(kept):
            name = HLO_NAME if len(kept) == 1 else f"graph_{number}_{parse_hlo(hlo, source='').name[:60]}.hlo"
            (folder / name.replace("/", "_")).write_bytes(hlo)


def fused(request: KernelRequest) -> JaxKernel:
    """One program: XLA may fuse what lies between the matmuls into them."""
    import jax
    import jax.numpy as jnp

    def mlp(hidden: Any, gate: Any, up: Any, down: Any) -> Any:
        gated = jnp.matmul(hidden, gate, precision="highest", preferred_element_type=jnp.float32)
        raised = jnp.matmul(hidden, up, precision="highest", preferred_element_type=jnp.float32)
        active = (jax.nn.silu(gated) * raised).astype(hidden.dtype)
        return jnp.matmul(active, down, precision="highest", preferred_element_type=jnp.float32).astype(hidden.dtype)

    return JaxKernel([mlp], request)


def naive(request: KernelRequest) -> JaxKernel:
    """Five programs, as without jit: every intermediate result is rounded to the type and passes through memory."""
    import jax
    import jax.numpy as jnp

    def matmul(left: Any, right: Any) -> Any:
        return jnp.matmul(left, right, precision="highest")

    def silu(values: Any) -> Any:
        return jax.nn.silu(values)

    def multiply(left: Any, right: Any) -> Any:
        return left * right

    def in_turn(programs: Sequence[Callable[..., Any]], placed: Any) -> Any:
        inward, curve, product, outward = programs
        hidden, gate, up, down = placed
        return outward(product(curve(inward(hidden, gate)), inward(hidden, up)), down)

    hidden, gate, _, down = request.shapes
    inner = (*hidden[:-1], gate[-1])
    shapes = [(hidden, gate), (inner,), (inner, inner), (inner, down)]
    return JaxKernel([matmul, silu, multiply, matmul], request, shapes=shapes, plan=in_turn)
