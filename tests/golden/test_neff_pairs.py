"""Headers of real NEFFs, as the vendor's JSON tells them: which capture belongs to which, and why their sizes agree."""

import json
import re

import pytest

from npuscope.formats.cache_compare import ARCHIVE_BLOCKS
from npuscope.formats.neff_uuid import DECIDABLE_BYTES, UUID_BYTES, match_uuid
from tests.conftest import samples_folder

UUID_FIELD = re.compile(rb"\x12([\x01-\x17])", re.DOTALL)


def captures():
    folder = samples_folder()
    return sorted((folder / "inf2-matmul").glob("*.json")) if folder else []


def neff_header(path):
    return json.loads(path.read_text())["neff_header"][0]


def ntff_uuid(path, neff_path):
    """The field behind the path of the NEFF: tag 0x12, length, bytes."""
    data = path.with_suffix(".ntff").read_bytes()
    start = data.index(neff_path.encode()) + len(neff_path)
    found = UUID_FIELD.match(data, start)
    assert found, data[start : start + 4].hex()
    return data[found.end() : found.end() + found[1][0]]


@pytest.fixture(scope="module")
def pairs(samples):
    return [
        (path.stem, bytes.fromhex(header["uuid"]), ntff_uuid(path, header["network_name"]))
        for path in captures()
        for header in [neff_header(path)]
    ]


def test_every_capture_matches_its_own_neff_and_no_other(pairs):
    assert len(pairs) == 28
    for name, neff, _ in pairs:
        known = len(neff.split(b"\0", 1)[0])
        for other, _, ntff in pairs:
            wanted = "mismatch" if name != other else "match" if known >= DECIDABLE_BYTES else "undecidable"
            assert match_uuid(neff, ntff) == wanted, (name, other)


def test_comparing_all_sixteen_bytes_would_fail_for_some_true_pairs(pairs):
    assert sum(ntff[:UUID_BYTES] != neff for _, neff, ntff in pairs) > 0


def test_all_captures_come_from_different_neffs_of_one_size_a_multiple_of_an_archives_block(samples):
    headers = [neff_header(path) for path in captures()]
    assert {header["data_size"] for header in headers} == {"30720"}
    assert len({header["hash"] for header in headers}) == len({header["uuid"] for header in headers}) == len(headers)
    assert 30720 % ARCHIVE_BLOCKS[0] == 0


def test_the_payload_must_be_compressed_as_its_constant_alone_is_larger(samples):
    for path in captures():
        nodes = json.loads(path.read_text())["neff_node"]
        weights = [int(node["size"]) for node in nodes if node.get("type") == "WEIGHT"]
        assert sum(weights) > 30720
