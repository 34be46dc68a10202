"""How long would this JAX function take on a Trainium that is not here, and which of its ops hold it back?

Needs JAX: pip install 'npuscope[jax]'. Nothing is run: the function is traced, and its program is simulated.
"""

from __future__ import annotations

import sys
from typing import Any

import npuscope


def block(x: Any, gate: Any, up: Any, down: Any) -> Any:
    """A gated MLP: hidden 1,024, intermediate 512."""
    import jax

    return (jax.nn.silu(x @ gate) * (x @ up)) @ down


def main() -> None:
    import jax
    import jax.numpy as jnp

    device = sys.argv[1] if len(sys.argv) > 1 else "trn2"
    shapes = ((128, 1024), (1024, 512), (1024, 512), (512, 1024))
    arguments = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes]
    found = npuscope.predict(block, *arguments, device=device)
    print(
        f"{found.program} on {found.device}: predicted {found.total_time_ns / 1e3:.1f} us, simulated, no device ran it"
    )
    print(
        f"{found.op_count} ops, {found.instruction_count} instructions, without lowering: {found.unlowered_share:.0%} of the time"
    )
    for use in found.ops[:5]:
        print(f"  {use.engine:<7} {use.busy_ns / 1e3:6.2f} us  {use.line}  {found.source_lines.get(use.line, '')}")


if __name__ == "__main__":
    main()
