"""Whatever a NEFF, a cache, a work folder or a log holds, it is read or refused by one error of npuscope."""

import contextlib
import gzip
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from npuscope.errors import FormatError
from npuscope.formats.cache_inspection import inspect_cache
from npuscope.formats.inspection import Inspection
from npuscope.formats.neff import looks_like_neff, neff_tables, read_neff
from npuscope.formats.neff_inspection import inspect_neff
from npuscope.formats.neff_uuid import match_uuid
from npuscope.formats.neuron_log_inspection import inspect_neuron_log
from npuscope.formats.workdir_inspection import inspect_compiler_workdir
from npuscope.profile.tables import make_profile
from tests.strategies import edits, json_values, mutations
from tests.writers import compile_cache as cache_writer
from tests.writers import neff as writer

fuzz = settings(
    deadline=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.large_base_example],
)
MEMBERS = writer.matmul_members()
TAR = writer.tar_bytes(MEMBERS)
PACKED = writer.neff_bytes(padding=512)
PLAIN = writer.neff_bytes(compressed=False, padding=512)
LOG = b"""2024-04-12 07:13:06.000296:  271334  INFO ||NEURON_CACHE||: Compile cache path: /var/tmp/neuron-compile-cache
2024-04-12 07:13:06.000297:  2713  INFO ||NEURON_CC_WRAPPER||: Call compiler with cmd: neuronx-cc compile /tmp/model.MODULE_1+d4.hlo
Compiler status PASS
2026-04-13 01:46:33.000003: 837617 [INFO]: Compilation Successfully Completed for model.MODULE_1+d4.hlo_module.pb
2024-04-12 07:13:08.000297:  2713  ERROR ||NEURON_CC_WRAPPER||: Got a cached failed neff at /x/MODULE_2+d4/model.neff.
2026-01-30T01:55:08Z INFO 4300 [sg0000/Tensorizer/TilingBottleneck]: 28672: matmul_128x128x512
2026-01-30T01:55:08Z USER 4300 [root/Tensorizer/Tensorizer]: Tensorizer finished after 0.226 seconds
"""


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def read_or_refuse(data, folder):
    """Read a NEFF in every way; whatever comes out must hold together."""
    path = folder / "graph.neff"
    path.write_bytes(data)
    looks_like_neff(data[:4096], len(data))
    with contextlib.suppress(FormatError):
        neff = read_neff(path)
        make_profile(neff_tables(neff), source="fuzz")
        assert isinstance(inspect_neff(path), Inspection)
        json.dumps(inspect_neff(path).tables)


@fuzz
@given(data=st.one_of(mutations(PACKED), mutations(PLAIN)))
def test_a_mutated_neff_is_read_or_refused(folder, data):
    read_or_refuse(data, folder)


@fuzz
@given(cut=st.integers(0, len(PLAIN)), compressed=st.booleans())
def test_a_truncated_neff_is_refused(folder, cut, compressed):
    data = PACKED if compressed else PLAIN
    path = folder / "cut.neff"
    path.write_bytes(data[: min(cut, len(data) - 1)])
    with pytest.raises(FormatError):
        read_neff(path)


@fuzz
@given(payload=mutations(TAR), compressed=st.booleans())
def test_a_mutated_archive_in_a_sound_file_is_read_or_refused(folder, payload, compressed):
    read_or_refuse(writer.pack(gzip.compress(payload, 1) if compressed else payload), folder)


@fuzz
@given(header=st.binary(min_size=1024, max_size=1024), size=st.sampled_from([1024, 0, 2**64 - 1]))
def test_any_header_is_read_or_refused(folder, header, size):
    sized = header[:8] + size.to_bytes(8, "little") + header[16:]
    read_or_refuse(sized + gzip.compress(TAR, 1), folder)
    rest = (len(gzip.compress(TAR, 1))).to_bytes(8, "little")
    read_or_refuse(header[:8] + (1024).to_bytes(8, "little") + rest + header[24:] + gzip.compress(TAR, 1), folder)


JSON_MEMBERS = [name for name in MEMBERS if name.endswith(".json")]


@fuzz
@given(data=st.data(), name=st.sampled_from(JSON_MEMBERS))
def test_any_json_in_an_archive_is_read(folder, data, name):
    document = data.draw(edits(json.loads(MEMBERS[name])) | json_values)
    changed = MEMBERS | {name: json.dumps(document).encode()}
    path = folder / "json.neff"
    path.write_bytes(writer.neff_bytes(changed))
    make_profile(neff_tables(read_neff(path)), source="fuzz")
    json.dumps(inspect_neff(path).tables)


@fuzz
@given(neff=st.binary(max_size=20), ntff=st.binary(max_size=24))
def test_any_two_uuids_are_judged(neff, ntff):
    verdict = match_uuid(neff, ntff)
    assert verdict in ("match", "mismatch", "undecidable")
    if verdict == "match":
        assert len(neff[:16].split(b"\0")[0]) >= 4
        assert ntff.startswith(neff[:16].split(b"\0")[0])


@fuzz
@given(
    data=st.one_of(mutations(LOG), st.binary(max_size=2000), st.text(max_size=500).map(lambda t: t.encode("utf-16")))
)
def test_any_bytes_are_a_log(folder, data):
    path = folder / "x.log"
    path.write_bytes(data)
    inspection = inspect_neuron_log(path)
    json.dumps(inspection.tables)


@pytest.mark.parametrize(
    "line",
    [
        "MODULE_" * 9000,
        "Using a cached neff at " * 2800,
        "x" * 60_000 + " not found in " + "y" * 4000,
        "INFO 1 [root]: " + "a" * 60_000 + "-cc compil",
        "]: 1: a" + "1x" * 30_000,
        "2026-01-30 " * 5900 + "finished after",
        "Output has " * 5900,
    ],
)
def test_a_line_made_to_backtrack_ends(folder, line):
    path = folder / "slow.log"
    path.write_text((line[:65_000] + "\n") * 20)
    assert inspect_neuron_log(path).facts["lines"] == 20


WORKDIR = {
    "info.json": {"tool_version": "2.22", "name": "/tmp/graph.neff"},
    "hlo_metrics.json": {"HloMacCount": 1160, "Traffic": 2328},
    "metrics.json": [{"MetricName": "TPBCount", "Value": 1, "Unit": "Count"}],
    "kernel_info.json": {"summary": {"total_kernel_calls": 0}},
    "io_transposes.json": [],
    "tensor_map.json": {"input0": {"is_const": False, "tf_shape": [2, 2], "dtype": "float16", "kind": "input"}},
    "tensorizer_metric_store.json": {
        "Sum": {"compiletime": {"CSE": 0.1}, "tensorizer": {"x": 1}},
        "Average": {"tensorizer": {"y": 2}},
    },
    "bir.json": {
        "functions": [
            {
                "allocations": [{"memorylocations": [{"type": "SB", "dims": [2, 4]}]}],
                "blocks": [
                    {
                        "instructions": [
                            {"opcode": "Matmult", "ins": [{"access_shape": [2, 2], "dtype": "float16"}] * 2, "outs": []}
                        ]
                    }
                ],
            }
        ]
    },
}


@fuzz
@given(data=st.data(), name=st.sampled_from(sorted(WORKDIR)))
def test_any_json_in_a_work_folder_is_read(data, name):
    with tempfile.TemporaryDirectory() as folder:
        for file, document in WORKDIR.items():
            edited = data.draw(edits(document) | json_values) if file == name else document
            Path(folder, file).write_text(json.dumps(edited))
        json.dumps(inspect_compiler_workdir(folder).tables)


@settings(fuzz, max_examples=40)
@given(
    data=mutations(PACKED),
    flags=json_values,
    name=st.sampled_from(["MODULE_1+d41d8cd9", "a" * 32, "matmul_1x2x3", "x"]),
)
def test_any_neff_in_a_cache_is_an_entry(data, flags, name):
    with tempfile.TemporaryDirectory() as folder:
        entry = Path(folder, name)
        entry.mkdir()
        (entry / "graph.neff").write_bytes(data)
        (entry / "compile_flags.json").write_text(json.dumps(flags))
        cache_writer.neuron_entry(Path(folder), "9", data=PACKED)
        inspection = inspect_cache(folder)
        assert len(inspection.tables["entries"]) == 2
        json.dumps(inspection.tables)
