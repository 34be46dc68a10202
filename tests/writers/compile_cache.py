"""Compile caches for tests, in the layouts that documentation and public issues show."""

import json
import os

from tests.writers import neff

COMPILER = "neuronxcc-2.22.12471.0+b4a00d10"


def aged(path, seconds_ago):
    now = path.stat().st_mtime
    os.utime(path, (now - seconds_ago, now - seconds_ago))


def neuron_entry(
    root, hlo, flags_hash="d41d8cd9", *, data=None, flags=(), done=True, log=None, lock_age_s=None, compiler=COMPILER
):
    """`<compiler>/MODULE_<hlo>+<flags>/`; `data` None leaves the NEFF out."""
    folder = root / compiler / f"MODULE_{hlo}+{flags_hash}"
    folder.mkdir(parents=True)
    (folder / "model.hlo_module.pb.gz").write_bytes(b"\x1f\x8b")
    (folder / "compile_flags.json").write_text(json.dumps(list(flags)))
    if data is not None:
        (folder / "model.neff").write_bytes(data)
    if done:
        (folder / "model.done").write_bytes(b"")
    if log is not None:
        (folder / "model.log").write_text(log)
    if lock_age_s is not None:
        lock = folder / "model.hlo_module.pb.gz.lock"
        lock.write_bytes(b"")
        aged(lock, lock_age_s)
    return folder


def vllm_entry(root, key, data, *, complete=True):
    """`<md5>/graph_<md5>.neff` and the mark of completion."""
    folder = root / key
    folder.mkdir(parents=True)
    (folder / f"graph_{key}.neff").write_bytes(data)
    if complete:
        (folder / ".compilation_complete").write_text("completed:0\n")
    return folder


def matmul_entry(root, M, K, N, *, dtype="float16", data=None, **neff_fields):
    """`matmul_MxKxN_dtype/` as a traced module leaves it: NEFF, command, model."""
    folder = root / f"matmul_{M}x{K}x{N}_{dtype}"
    (folder / "model").mkdir(parents=True)
    members = neff.matmul_members(M, K, N, matmuls=max(1, M // 128))
    fields = {
        "uuid": bytes([M % 251 + 1, N % 251 + 1]) * 8,
        "name": f"{folder.name}/graph.neff".encode(),
        **neff_fields,
    }
    (folder / "graph.neff").write_bytes(neff.neff_bytes(members, **fields) if data is None else data)
    (folder / "command.txt").write_text(
        f"neuronx-cc compile {folder.name}/model --framework XLA --target inf2 --output {folder.name}/graph.neff --verbose=35"
    )
    (folder / "model" / "metadata.json").write_text(json.dumps({"version": 1, "input": ["a", "b"], "name": "matmul"}))
    (folder / "model" / "graph.hlo").write_bytes(b"\x08\x01")
    return folder
