"""What XLA itself writes with `--xla_dump_to` is told and read: modules before and after optimisation, and snapshots."""

import os
import subprocess
import sys

import pytest

from npuscope.formats.artifact import identify
from npuscope.formats.hlo_cost import program_cost
from npuscope.formats.hlo_reader import parse_hlo, read_hlo

pytest.importorskip("jax")
PROGRAM = """
import jax, jax.numpy as jnp
f = jax.jit(lambda x: jnp.tanh(x @ x) + jax.lax.fori_loop(0, 5, lambda i, a: a * 2.0, x))
f(jnp.ones((8, 8))).block_until_ready()
"""


@pytest.fixture(scope="module")
def dumps(tmp_path_factory):
    """The files of one run in a process of its own: XLA reads its flags once."""
    folder = tmp_path_factory.mktemp("dump")
    flags = f"--xla_dump_to={folder} --xla_dump_hlo_as_proto --xla_dump_hlo_snapshots"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", PROGRAM], env=environment, check=True, capture_output=True, timeout=300)
    return folder


@pytest.mark.parametrize(
    ("pattern", "has_fusions"),
    [
        ("*lambda*before_optimizations.hlo.pb", False),
        ("*lambda*after_optimizations.hlo.pb", True),
        ("*lambda*snapshot*.pb", True),
    ],
)
def test_each_kind_of_dump_is_told_by_its_content_and_read(dumps, tmp_path, pattern, has_fusions):
    (found,) = dumps.glob(pattern)
    path = tmp_path / "dump.bin"
    path.write_bytes(found.read_bytes())
    assert identify(path).name == "hlo"
    module = read_hlo(path)
    opcodes = {op.opcode for computation in module.computations for op in computation.ops}
    assert module.name == "jit__lambda"
    assert ("fusion" in opcodes) == has_fusions
    cost = program_cost(module)
    assert cost.total.model_flops == 2 * 8**3
    assert [loop.trip_count for loop in cost.loops] == [5]


def test_every_dumped_module_is_read_whole_and_refused_when_cut(dumps):
    paths = sorted(dumps.glob("*.hlo.pb"))
    assert len(paths) >= 2
    for path in paths:
        data = path.read_bytes()
        assert read_hlo(path).op_count > 0
        module = parse_hlo(data, source="whole")
        # A module stands first in an HloProto; what follows it is not ours.
        for end in range(0, module.size_bytes // 2, 7):
            with pytest.raises(ValueError, match="expected"):
                parse_hlo(data[:end], source="cut")
