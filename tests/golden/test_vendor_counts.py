"""The closed forms of `tiling` against the vendor's own summary of real captures."""

import json
import re

import pytest

from npuscope.tiling.model import LEGACY
from npuscope.tiling.work import tensor_engine_work, tile_matmul
from npuscope.workloads.matmul import MatmulConfig
from tests.conftest import samples_folder

FIELDS = (
    "matmul_instruction_count",
    "model_flops",
    "hardware_flops",
    "transpose_flops",
    "hbm_read_bytes",
    "hbm_write_bytes",
)


def captures():
    folder = samples_folder()
    found = sorted((folder / "inf2-matmul").glob("*.json")) if folder else []
    return found or [None]


def vendor_summary(path):
    summary = json.loads(path.read_text())["summary"]
    return summary[0] if isinstance(summary, list) else summary


@pytest.mark.parametrize("path", captures(), ids=lambda path: path.stem if path else "no-captures")
def test_every_count_equals_the_vendors(path, samples):
    M, K, N = map(int, re.search(r"(\d+)x(\d+)x(\d+)", path.stem).groups())
    work = tensor_engine_work(MatmulConfig(M, K, N, "float16"))
    vendor = vendor_summary(path)
    assert {name: getattr(work, name) for name in FIELDS} == {name: vendor[name] for name in FIELDS}


def test_the_legacy_tile_model_is_contradicted_by_the_vendors_count(samples):
    vendor = vendor_summary(samples / "inf2-matmul" / "profile_128x128x1024.json")
    config = MatmulConfig(128, 128, 1024, "float16")
    assert tile_matmul(config, LEGACY).total_tiles == 8
    assert vendor["matmul_instruction_count"] == 3


def test_there_are_28_pairs(samples):
    assert len(captures()) == 28
