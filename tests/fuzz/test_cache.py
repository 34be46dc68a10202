"""Whatever lies in a cache folder, it is told or refused by one error, and only what a cache wrote is deleted."""

import contextlib
import gzip
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from npuscope.analysis.cache_selection import Wanted, select
from npuscope.analysis.hlo_diff import KINDS, diff_modules, structure_of
from npuscope.analysis.recompile_causes import CAUSES
from npuscope.analysis.recompile_files import Files, diagnose_files
from npuscope.errors import FormatError
from npuscope.formats.cache_deletion import check_root, delete_entries
from npuscope.formats.cache_listing import list_cache
from npuscope.formats.hlo_reader import parse_hlo
from npuscope.report.document import to_json
from tests.strategies import mutations
from tests.unit.test_recompile_log import cached_failure, compiled, hit
from tests.writers import hlo
from tests.writers.compile_cache import COMPILER

fuzz = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example]
)
MODULES = [hlo.module_bytes(hlo.matmul()), hlo.module_bytes(*hlo.counting_loop())]
LOG = "\n".join(
    [compiled("MODULE_1+aa"), hit("MODULE_1+aa"), cached_failure("MODULE_2+aa"), compiled("MODULE_1+bb", 9)]
).encode()
OWN = (
    "model.neff", "model.done", "model.log", "model.hlo_module.pb", "model.hlo_module.pb.gz", "compile_flags.json",
    "model.hlo_module.pb.lock", ".compilation_complete", "graph.neff", f"graph_{'a' * 32}.neff", f"jit_f-{'0' * 64}-cache", f"jit_f-{'0' * 64}-atime",
)  # fmt: skip
FOREIGN = (
    "weights.bin",
    "train.py",
    "model.neff.bak",
    "jit_f-cache",
    "notes",
    "jit_f-00-cache",
    "poetry.lock",
    "graph_theory.log",
    "x\n.lock",
)
FOLDERS = (
    "",
    f"{COMPILER}/MODULE_1+d41d8cd9",
    f"{COMPILER}/MODULE_2+aa",
    "a" * 32,
    "matmul_1x2x3",
    "mine",
    f"mine/{COMPILER}/MODULE_3",
    f"{COMPILER}/MODULE_1+d41d8cd9/my_notes",
    f"work/{'a' * 32}",
    "course/MODULE_3/exercise",
)
MAY_GO = {
    "": OWN[-2:],
    "a" * 32: (".compilation_complete", "graph.neff", f"graph_{'a' * 32}.neff"),
    **dict.fromkeys(FOLDERS[1:3] + FOLDERS[6:7], OWN[:7]),
}
"""Names that a cache writes, by the only folders where it does."""


@fuzz
@given(first=st.sampled_from(MODULES).flatmap(mutations), second=st.sampled_from(MODULES))
def test_a_mutated_module_is_compared_or_refused(first, second):
    with contextlib.suppress(FormatError):
        before, after = parse_hlo(first, source="first"), parse_hlo(second, source="second")
        for pair in ((before, after), (after, before)):
            diff = diff_modules(*pair)
            assert diff.kind in KINDS
            assert diff.told().isprintable()
        if diff.kind in ("identical", "names"):
            assert structure_of(before) == structure_of(after)


contents = st.one_of(
    st.binary(max_size=20),
    st.sampled_from(MODULES),
    st.sampled_from(MODULES).flatmap(mutations),
    st.sampled_from([gzip.compress(data, mtime=0) for data in MODULES]).flatmap(mutations),
    st.sampled_from([b'["-O1"]', b"{", b"[[[[", b"null"]),
)
trees = st.dictionaries(st.tuples(st.sampled_from(FOLDERS), st.sampled_from(OWN + FOREIGN)), contents, max_size=10)


@fuzz
@given(tree=trees)
def test_a_folder_is_told_and_only_a_caches_own_files_are_deleted(tree):
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "cache"
        root.mkdir()
        for (folder, name), data in tree.items():
            (root / folder).mkdir(parents=True, exist_ok=True)
            (root / folder / name).write_bytes(data)
        listing = list_cache(root)
        diagnosis = diagnose_files(Files(caches=(root,)))
        assert {one.cause for one in diagnosis.findings} <= set(CAUSES)
        to_json(diagnosis)
        selection = select(listing, Wanted(max_bytes=0, incomplete=True, failed=True))
        assert all(one.entry.is_prunable for one in selection.chosen)
        deleted = list(delete_entries(check_root(root), [one.entry for one in selection.chosen]))
        assert [one.error for one in deleted] == [""] * len(deleted)
        for folder, name in tree:
            assert name in MAY_GO.get(folder, ()) or (root / folder / name).exists()
        assert not [one for one in list_cache(root).entries if one.is_prunable and not one.is_busy(listing.read_s)]


@fuzz
@given(data=mutations(LOG))
def test_a_mutated_log_is_told(data):
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "train.log"
        path.write_bytes(data)
        diagnosis = diagnose_files(Files(logs=(path,)))
        assert diagnosis.cause in CAUSES
        assert diagnosis.calls >= diagnosis.cache_hits >= 0
        assert diagnosis.summary.isprintable()
        to_json(diagnosis)
