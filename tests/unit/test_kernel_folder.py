"""What a build leaves in a folder, and a folder that was changed or made by somebody else."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest

from npuscope.errors import FormatError, UsageError
from npuscope.formats.artifact import identify, inspect_artifact, read_profile
from npuscope.formats.kernel_folder import (
    MANIFEST_NAME,
    Built,
    HostRun,
    KernelManifest,
    check_files,
    file_stem,
    read_inputs,
    read_manifest,
    write_inputs,
    write_manifest,
)
from npuscope.formats.tensor_files import read_tensor, write_tensor
from npuscope.workloads.dtypes import numpy_dtype
from npuscope.workloads.mlp import MlpConfig, inputs_sha256, make_inputs

CONFIG = MlpConfig(1, 4, 8, 6)


@pytest.fixture
def folder(tmp_path):
    arrays = make_inputs(CONFIG, 0)
    inputs = write_inputs(tmp_path, CONFIG, arrays, inputs_sha256(arrays))
    run = HostRun((1, 2, 3), 4.0, 1.0, "output.npy")
    built = Built(
        "numpy",
        "cpu",
        "a:b",
        CONFIG,
        False,
        False,
        "built",
        compile_ms=1.5,
        bindings={"hidden_tensor": "in0"},
        host_run=run,
    )
    write_manifest(tmp_path, KernelManifest("mlp", 0, (inputs,), (built,), provenance={"x": None}))
    return tmp_path


def spoil(folder, change):
    path = folder / MANIFEST_NAME
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_a_manifest_is_read_as_it_was_written(folder):
    manifest = read_manifest(folder)
    assert write_manifest(folder, manifest).read_text() == (folder / MANIFEST_NAME).read_text()
    assert manifest.builds[0].host_run == HostRun((1, 2, 3), 4.0, 1.0, "output.npy")
    assert manifest.builds[0].stem == "numpy_cpu_b1_s4_h8_i6_bfloat16"


def test_inputs_are_read_back_bit_for_bit(folder):
    read = read_inputs(folder, read_manifest(folder).inputs[0])
    assert inputs_sha256(read) == inputs_sha256(make_inputs(CONFIG, 0))


def test_the_npy_of_an_input_holds_the_same_bytes(folder):
    inputs = read_manifest(folder).inputs[0]
    array = np.load(folder / inputs.folder / "hidden_tensor.npy", allow_pickle=False)
    assert array.tobytes() == (folder / inputs.folder / "hidden_tensor.bin").read_bytes()


def test_a_changed_or_missing_file_is_an_error_that_names_it(folder):
    inputs = read_manifest(folder).inputs[0]
    path = folder / inputs.folder / "gate_proj_weights_tensor.bin"
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    with pytest.raises(FormatError, match=r"gate_proj_weights_tensor\.bin.*another content"):
        check_files(folder, inputs.folder, inputs.files)
    path.unlink()
    with pytest.raises(FormatError, match=r"gate_proj_weights_tensor\.bin"):
        check_files(folder, inputs.folder, inputs.files)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(format="another"),
        lambda d: d.pop("inputs"),
        lambda d: d["builds"][0]["config"].update(batch=0),
        lambda d: d["builds"][0].update(compile_ms="fast"),
        lambda d: d["inputs"][0].update(folder="../elsewhere"),
        lambda d: d["inputs"][0].update(folder="/etc"),
        lambda d: d["inputs"][0]["files"].update({"../../passwd": "0"}),
        lambda d: d["builds"][0].update(neff="../../x.neff"),
        lambda d: d["builds"][0].update(name="../x", device="../../y"),
        lambda d: d["builds"][0]["host_run"].update(output="/etc/passwd"),
        lambda d: d.update(family="another"),
        lambda d: d.update(builds=[]),
        lambda d: d["builds"].append(d["builds"][0]),
        lambda d: d["builds"][0].update(lnc=77),
        lambda d: d["builds"][0].update(name="\x1b[31m"),
        lambda d: d["builds"][0].update(is_user_code=True, target="/tmp/x.py:f", source_sha256=""),
        lambda d: d["inputs"][0].update(files={}),
    ],
)
def test_a_manifest_that_somebody_changed_is_one_error(folder, change):
    spoil(folder, change)
    with pytest.raises(FormatError, match=MANIFEST_NAME):
        read_manifest(folder)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"family": 1}', b'{"family": "\xff"}'])
def test_what_is_no_manifest_is_one_error(tmp_path, data):
    (tmp_path / MANIFEST_NAME).write_bytes(data)
    with pytest.raises(FormatError, match=MANIFEST_NAME):
        read_manifest(tmp_path)


def test_pipes_devices_and_links_out_of_the_folder_are_refused(folder, tmp_path_factory):
    inputs = read_manifest(folder).inputs[0]
    path = folder / inputs.folder / "hidden_tensor.npy"
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "hidden_tensor.npy"
    path.rename(elsewhere)
    for make in (os.mkfifo, lambda place: place.symlink_to("/dev/zero"), lambda place: place.symlink_to(elsewhere)):
        make(path)
        with pytest.raises(FormatError, match=r"hidden_tensor\.npy"):
            check_files(folder, inputs.folder, inputs.files)
        path.unlink()


def test_the_hash_of_all_inputs_is_compared_with_theirs(folder):
    inputs = read_manifest(folder).inputs[0]
    with pytest.raises(FormatError, match="the hash of the inputs"):
        read_inputs(folder, replace(inputs, sha256="0" * 64))


def test_a_folder_without_a_manifest_says_how_to_make_one(tmp_path):
    with pytest.raises(UsageError, match="npuscope mlp build"):
        read_manifest(tmp_path)


def test_stems_are_plain_file_names():
    assert file_stem("my kernel/../x:f", "sim:trn2") == "my-kernel----x-f_sim-trn2"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_tensor_survives_its_file(tmp_path, dtype):
    array = np.arange(6).reshape(2, 3).astype(numpy_dtype(dtype))
    raw, _ = write_tensor(tmp_path, "x", array)
    assert read_tensor(raw, dtype, (2, 3)).tobytes() == array.tobytes()
    with pytest.raises(FormatError, match=r"expected .* bytes"):
        read_tensor(raw, dtype, (2, 4))


class TestAsAnArtifact:
    def test_a_build_is_inspected_and_holds_no_profile_itself(self, folder):
        assert identify(folder).name == "kernel-build"
        told = inspect_artifact(folder)
        assert told.tables["builds"][0]["kernel"] == "numpy"
        assert told.tables["inputs"][0]["sha256"] == read_manifest(folder).inputs[0].sha256
        with pytest.raises(UsageError, match=r"Profiles in profiles/NAME"):
            read_profile(folder)

    def test_results_of_patterns_name_the_command_that_reads_them(self, tmp_path):
        (tmp_path / "perfetto_pattern_mapping.json").write_text("{}")
        with pytest.raises(UsageError, match="npuscope patterns --from"):
            inspect_artifact(tmp_path)
