"""Cache folders: what they hold, what of it was compiled needlessly, what can go, and that nothing else goes."""

import gzip
import os
import time

import pytest

from npuscope.analysis.cache_selection import OTHERS, Wanted, newest_compiler, parse_age, parse_size, select
from npuscope.analysis.recompile_cache import examine_cache
from npuscope.analysis.recompile_files import Files, diagnose_files, kind_of
from npuscope.errors import FormatError, UsageError
from npuscope.formats.cache_deletion import check_root, delete_entries
from npuscope.formats.cache_listing import is_jax_cache, list_cache
from npuscope.formats.cache_places import NEURON_DEFAULT, default_cache, local_folder
from tests.unit.test_recompile_log import compiled, hit
from tests.writers import compile_cache as writer
from tests.writers import hlo, neff

NEFF = neff.neff_bytes()
OLD = "neuronxcc-2.9.0.0+aaaa"


def entry(root, name, function=None, *, module="graph", **fields):
    folder = writer.neuron_entry(root, name, **{"data": NEFF, **fields})
    data = hlo.module_bytes(function or hlo.matmul(), name=module)
    (folder / "model.hlo_module.pb.gz").write_bytes(gzip.compress(data))
    return folder


def jax_entry(root, name="jit_f", digit="0", data=b"x" * 10, age_s=0):
    root.mkdir(exist_ok=True)
    for ending, content in (("cache", data), ("atime", b"12345678")):
        path = root / f"{name}-{digit * 64}-{ending}"
        path.write_bytes(content)
        writer.aged(path, age_s)


def aged(folder, seconds):
    for path in folder.iterdir():
        writer.aged(path, seconds)


def found(root):
    return {one.cause: one.count for one in examine_cache(list_cache(root)).findings}


def everything(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


# what was compiled needlessly


@pytest.mark.parametrize(
    ("cause", "second"),
    [
        ("unstable-names", {"function": hlo.matmul(), "module": "graph.17"}),
        ("shape-change", {"function": hlo.matmul(16, 8, 2)}),
        ("constant-embedded", {"function": "constant"}),
        ("dtype-change", {"function": "bf16"}),
    ],
)
def test_two_programs_that_differ_in_one_thing_alone_are_told_with_it(tmp_path, cause, second):
    def scaled(kind, value):
        main = hlo.Function("main")
        x = main.parameter(hlo.shape(kind, 4))
        main.op(
            "multiply", hlo.shape(kind, 4), x, main.op("broadcast", hlo.shape(kind, 4), main.constant("f32", value))
        )
        return main

    other = (
        {"constant": scaled("f32", 2.0), "bf16": scaled("bf16", 1.0)}.get(second["function"])
        if isinstance(second["function"], str)
        else None
    )
    entry(tmp_path, "1", scaled("f32", 1.0) if other else None)
    entry(tmp_path, "2", **{**second, "function": other or second["function"]})
    assert found(tmp_path) == {cause: 1}
    report = examine_cache(list_cache(tmp_path), {"MODULE_2+d41d8cd9": 4000.0, "MODULE_1+d41d8cd9": 4000.0})
    assert (report.programs, report.findings[0].cost_ms) == (2, 4000.0)
    diagnosis = diagnose_files(Files(caches=(tmp_path,)))
    assert (diagnosis.cause, diagnosis.recompiles, diagnosis.calls, diagnosis.compiles) == (cause, 1, None, 2)


def test_programs_that_have_nothing_in_common_are_no_recompilation(tmp_path):
    entry(tmp_path, "1")
    entry(tmp_path, "2", _negated())
    assert found(tmp_path) == {}
    assert diagnose_files(Files(caches=(tmp_path,))).recompiles == 0


def _negated():
    main = hlo.Function("main")
    main.op("negate", hlo.shape("f32", 4), main.parameter(hlo.shape("f32", 4)))
    return main


def test_one_graph_for_several_flags_and_compilers_is_told_with_what_differs(tmp_path):
    entry(tmp_path, "1")
    entry(tmp_path, "1", flags_hash="abcdef01", flags=["-O1"])
    entry(tmp_path, "1", compiler=OLD)
    report = examine_cache(list_cache(tmp_path))
    assert {one.cause: one.count for one in report.findings} == {"flags-differ": 1, "compiler-version-differs": 1}
    assert any("-O1" in text for one in report.findings for text in one.evidence)


def test_a_graph_that_differs_by_compiler_and_flags_is_told_with_both(tmp_path):
    aged(entry(tmp_path, "1", flags=["-O2"]), 500)
    entry(tmp_path, "1", flags_hash="abcdef01", flags=["-O1"], compiler=OLD)
    report = examine_cache(list_cache(tmp_path))
    assert [(one.cause, one.count, one.is_recompile) for one in report.findings] == [
        ("compiler-version-differs", 1, True),
        ("flags-differ", 1, False),
    ]
    assert all("-O2 against -O1" in one.evidence[0] for one in report.findings)
    assert diagnose_files(Files(caches=(tmp_path,))).recompiles == 1


def test_a_graph_is_compared_with_the_nearest_of_those_before_it(tmp_path):
    aged(entry(tmp_path, "1"), 900)
    aged(entry(tmp_path, "1", compiler=OLD), 600)
    entry(tmp_path, "1", compiler=OLD, flags_hash="abcdef01", flags=["-O1"])
    assert found(tmp_path) == {"compiler-version-differs": 1, "flags-differ": 1}


def test_only_complete_entries_are_compared_and_the_others_told_apart(tmp_path):
    entry(tmp_path, "1")
    entry(tmp_path, "2", data=None, done=False, log="error")
    entry(tmp_path, "3", data=None, done=False)
    entry(tmp_path, "4", data=None, done=False, lock_age_s=9_000)
    entry(tmp_path, "5", data=bytes(2_048))
    assert found(tmp_path) == {"failed-compile-cached": 1, "entry-incomplete": 3}
    report = examine_cache(list_cache(tmp_path))
    assert (report.programs, report.complete) == (1, 1)
    assert "4 entries that are not complete: not compared with others" in report.notes


def test_one_program_is_not_said_to_be_like_no_other(tmp_path):
    entry(tmp_path, "1")
    (words := diagnose_files(Files(caches=(tmp_path,))).summary)
    assert words == "1 entry, of which one is complete and keeps its program: there is none to compare it with"
    entry(tmp_path, "2", data=None, done=False, log="error")
    assert "no two are alike" not in diagnose_files(Files(caches=(tmp_path,))).summary


def test_a_cache_of_failures_alone_does_not_say_that_programs_are_missing(tmp_path):
    entry(tmp_path, "1", data=None, done=False, log="error")
    assert diagnose_files(Files(caches=(tmp_path,))).summary == "1 entry, and none is complete"


def test_failed_and_half_written_entries_are_told_and_locked_ones_only_when_old(tmp_path):
    entry(tmp_path, "1", data=None, done=False, log="error")
    entry(tmp_path, "2", _negated(), data=None, done=False)
    entry(tmp_path, "3", _negated(), data=None, done=False, lock_age_s=10)
    assert {cause: count for cause, count in found(tmp_path).items() if "-" in cause and cause != "unstable-names"} == {
        "failed-compile-cached": 1,
        "entry-incomplete": 1,
    }


def test_a_damaged_program_is_a_note_and_not_an_error(tmp_path):
    writer.neuron_entry(tmp_path, "1", data=NEFF)  # whose HLO is two bytes of gzip
    entry(tmp_path, "2")
    report = examine_cache(list_cache(tmp_path))
    assert report.programs == 1
    assert "MODULE_1+d41d8cd9" in report.notes[0]


def test_a_log_and_a_cache_together_tell_how_often_and_why(tmp_path):
    """A program with another name each time, compiled in each iteration."""
    cache, log = tmp_path / "cache", tmp_path / "train.log"
    for number in range(3):
        entry(cache, str(number), module=f"SyncTensorsGraph.{number}")
    entry(cache, "77", hlo.matmul(64, 8, 2))  # of another run: no line of this log
    entry(cache, "0", compiler=OLD)  # likewise
    lines = [
        line for n in range(3) for line in (compiled(f"MODULE_{n}+d41d8cd9", 10 * n), hit("MODULE_99+aa", 10 * n + 5))
    ]
    log.write_text("\n".join(lines) + "\n")
    diagnosis = diagnose_files(Files(logs=(log,), caches=(cache,)))
    assert (diagnosis.calls, diagnosis.compiles, diagnosis.cache_hits) == (6, 3, 3)
    assert (diagnosis.cause, diagnosis.recompiles, diagnosis.recompile_ms) == ("unstable-names", 2, 8_000)
    assert [one.cause for one in diagnosis.findings] == ["unstable-names"]
    assert "SyncTensorsGraph.0 -> SyncTensorsGraph.1" in diagnosis.findings[0].evidence[0]


def test_a_log_with_a_hit_and_its_cache_tell_what_the_log_alone_cannot(tmp_path):
    cache, log = tmp_path / "cache", tmp_path / "train.log"
    for number in range(3):
        entry(cache, str(number), module=f"graph.{number}")
    lines = [compiled(f"MODULE_{n}+d41d8cd9", 10 * n) for n in range(3)]
    log.write_text("\n".join([*lines, hit("MODULE_0+d41d8cd9", 40)]) + "\n")
    assert diagnose_files(Files(logs=(log,))).recompiles is None
    assert diagnose_files(Files(logs=(log,), caches=(cache,))).recompiles == 2


def test_a_compilation_that_no_line_names_is_not_settled_by_the_cache(tmp_path):
    cache, log = tmp_path / "cache", tmp_path / "train.log"
    entry(cache, "0")
    log.write_text(compiled("MODULE_0+d41d8cd9") + "\n" + "Compiler status PASS\n" * 2)
    assert diagnose_files(Files(logs=(log,), caches=(cache,))).recompiles is None


def test_a_log_of_different_programs_with_their_cache_is_healthy(tmp_path):
    cache, log = tmp_path / "cache", tmp_path / "train.log"
    entry(cache, "0")
    entry(cache, "1", _negated())
    three = hlo.Function("main")
    three.op("tanh", hlo.shape("f32", 3), three.parameter(hlo.shape("f32", 3)))
    entry(cache, "2", three)
    log.write_text("\n".join(compiled(f"MODULE_{n}+d41d8cd9", 10 * n) for n in range(3)) + "\n")
    diagnosis = diagnose_files(Files(logs=(log,), caches=(cache,)))
    assert (diagnosis.cause, diagnosis.recompiles) == ("none", 0)


def test_two_cache_folders_are_added_up(tmp_path):
    for name in ("a", "b"):
        entry(tmp_path / name, "1", data=None, done=False, log="error")
    diagnosis = diagnose_files(Files(caches=(tmp_path / "a", tmp_path / "b")))
    assert [(one.cause, one.count) for one in diagnosis.findings] == [("failed-compile-cached", 2)]


def test_jax_s_cache_tells_how_many_programs_a_name_has_and_not_why(tmp_path):
    for digit in "0123":
        jax_entry(tmp_path, digit=digit)
    jax_entry(tmp_path, "jit_g", "a")
    assert (is_jax_cache(tmp_path), kind_of(tmp_path)) == (True, "cache")
    diagnosis = diagnose_files(Files(caches=(tmp_path,)))
    assert (diagnosis.compiles, diagnosis.recompiles, diagnosis.cause) == (5, None, "unexplained")
    assert "jit_f has 4 programs" in diagnosis.findings[0].evidence[0]


# what is in a folder


def test_entries_of_all_caches_are_listed_with_their_state_and_own_files(tmp_path):
    folder = entry(tmp_path, "1", flags=["-O1"])
    (folder / "notes.txt").write_text("mine")
    writer.vllm_entry(tmp_path, "a" * 32, NEFF, complete=False)
    writer.matmul_entry(tmp_path, 128, 128, 512)
    jax_entry(tmp_path, data=b"")
    by_layout = {one.layout: one for one in list_cache(tmp_path).entries}
    assert {name: one.status for name, one in by_layout.items()} == {
        "neuron": "complete",
        "vllm": "incomplete",
        "matmul": "complete",
        "jax": "incomplete",
    }
    neuron = by_layout["neuron"]
    assert (neuron.compiler, neuron.hlo_hash, neuron.flags_hash, neuron.flags) == (
        writer.COMPILER,
        "1",
        "d41d8cd9",
        ("-O1",),
    )
    assert neuron.foreign == ("notes.txt",)
    assert neuron.size_bytes == sum(p.stat().st_size for p in folder.iterdir() if p.name != "notes.txt")
    assert {name: one.is_prunable for name, one in by_layout.items()} == {
        "neuron": True,
        "vllm": True,
        "matmul": False,
        "jax": True,
    }


@pytest.mark.parametrize(
    ("variables", "folder", "named_by"),
    [
        ({}, NEURON_DEFAULT, "the default of the Neuron compiler"),
        ({"JAX_COMPILATION_CACHE_DIR": "/j"}, "/j", "JAX_COMPILATION_CACHE_DIR"),
        ({"NEURON_COMPILE_CACHE_URL": "/n", "JAX_COMPILATION_CACHE_DIR": "/j"}, "/n", "NEURON_COMPILE_CACHE_URL"),
        ({"NEURON_COMPILE_CACHE_URL": "file:///n"}, "/n", "NEURON_COMPILE_CACHE_URL"),
        (
            {"NEURON_CC_FLAGS": "-O1 --cache_dir=/c", "NEURON_COMPILE_CACHE_URL": "/n"},
            "/c",
            "--cache_dir of NEURON_CC_FLAGS",
        ),
        ({"NEURON_CC_FLAGS": "--cache_dir '/c d'"}, "/c d", "--cache_dir of NEURON_CC_FLAGS"),
        ({"NEURON_CC_FLAGS": "it's --cache_dir=/c"}, "/c", "--cache_dir of NEURON_CC_FLAGS"),
    ],
)
def test_the_default_cache_follows_the_documented_precedence(variables, folder, named_by):
    place = default_cache(variables)
    assert (str(place.folder), place.named_by) == (folder, named_by)


@pytest.mark.parametrize("url", ["s3://bucket/cache", "gs://b/c", "S3://x"])
def test_a_cache_elsewhere_is_refused_with_the_reason(url):
    with pytest.raises(UsageError, match="only folders of this machine"):
        default_cache({"NEURON_COMPILE_CACHE_URL": url})
    with pytest.raises(UsageError, match="aws s3 sync"):
        local_folder(url, "FOLDER")


# what can go


@pytest.mark.parametrize(("text", "seconds"), [("30d", 2_592_000), ("12h", 43_200), ("1.5m", 90), ("2W", 1_209_600)])
def test_ages_are_read(text, seconds):
    assert parse_age(text) == seconds


@pytest.mark.parametrize(("text", "size"), [("10G", 10 << 30), ("1.5MiB", 3 << 19), ("512", 512), ("2kb", 2048)])
def test_sizes_are_read(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "d", "30", "-1d", "1y", "nan", "1e9d"])
def test_what_is_no_age_is_refused(text):
    with pytest.raises(UsageError, match="30d"):
        parse_age(text)


@pytest.mark.parametrize("text", ["", "G", "-1", "10X", "inf", "1e9"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UsageError, match="10G"):
        parse_size(text)


@pytest.fixture
def cache(tmp_path):
    """One entry of each state; the first is old, the last is being compiled."""
    root = tmp_path / "cache"
    aged(entry(root, "1"), 40 * 86_400)
    entry(root, "2", data=None, done=False, log="error")
    entry(root, "3", data=None, done=False)
    entry(root, "4", data=None, done=False, lock_age_s=9_000)
    entry(root, "5", compiler=OLD)
    entry(root, "6", data=None, done=False, lock_age_s=5)
    return root


def chosen(root, **wanted):
    selection = select(list_cache(root), Wanted(**wanted))
    return [one.entry.hlo_hash for one in selection.chosen], [one.entry.hlo_hash for one in selection.kept]


@pytest.mark.parametrize(
    ("wanted", "goes", "stays"),
    [
        ({"failed": True}, ["2"], []),
        ({"incomplete": True}, ["3", "4"], ["6"]),
        ({"older_than_s": 30 * 86_400.0}, ["1"], []),
        ({"compiler": OTHERS}, ["5"], []),
        ({"compiler": "2.9.0.0"}, ["5"], []),
        ({"compiler": writer.COMPILER}, ["1", "2", "3", "4"], ["6"]),
        ({"keep_compiler": OLD}, ["1", "2", "3", "4"], ["6"]),
        ({"max_bytes": 0}, ["1", "2", "3", "4", "5"], []),
        ({"failed": True, "incomplete": True}, ["2", "3", "4"], ["6"]),
        ({"failed": True, "compiler": OTHERS}, ["2", "5"], []),
        ({"failed": True, "older_than_s": 86_400.0}, [], []),
        ({"compiler": writer.COMPILER, "older_than_s": 86_400.0}, ["1"], []),
        ({"keep_compiler": writer.COMPILER, "failed": True, "older_than_s": 0.0}, ["2", "5"], []),
        ({"older_than_s": 30 * 86_400.0, "max_bytes": 1 << 30}, ["1"], []),
        ({"failed": True, "older_than_s": 86_400.0, "max_bytes": 0}, ["1", "2", "3", "4", "5"], []),
    ],
)
def test_entries_are_chosen_by_what_was_asked_for(cache, wanted, goes, stays):
    told = chosen(cache, **wanted)
    assert (sorted(told[0]), told[1]) == (goes, stays)


def test_the_longest_unused_go_first_until_the_rest_is_small_enough(cache):
    listing = list_cache(cache)
    first = next(one for one in listing.entries if one.hlo_hash == "1")
    assert chosen(cache, max_bytes=listing.size_bytes - 1)[0] == ["1"]
    assert chosen(cache, max_bytes=listing.size_bytes)[0] == []
    assert len(chosen(cache, max_bytes=listing.size_bytes - first.size_bytes - 1)[0]) == 2


def test_an_age_narrows_the_states_that_are_asked_for_and_both_are_told(cache):
    aged(next(cache.glob("*/MODULE_2+*")), 90 * 86_400)
    (one,) = select(list_cache(cache), Wanted(failed=True, older_than_s=86_400.0)).chosen
    assert (one.entry.hlo_hash, one.reason) == ("2", "its compilation failed, not used for 90 days")


def test_what_is_too_much_is_listed_last_and_the_longest_unused_of_it_first(tmp_path):
    for name, age_s in (("1", 10), ("2", 90_000), ("3", 500_000), ("4", 20)):
        aged(entry(tmp_path, name, log="error" if name == "4" else None), age_s)
    (next(tmp_path.glob("*/MODULE_4+*")) / "model.neff").unlink()
    assert chosen(tmp_path, failed=True, max_bytes=0)[0] == ["4", "3", "2", "1"]


def test_what_is_locked_counts_as_left(cache):
    listing = list_cache(cache)
    left = sum(one.size_bytes for one in listing.entries if one.hlo_hash == "6")
    assert chosen(cache, incomplete=True, max_bytes=left) == (["3", "4", "1", "2", "5"], ["6"])
    assert "5" not in chosen(cache, incomplete=True, max_bytes=left + 1_000_000)[0]


@pytest.mark.parametrize("data", [bytes(4), bytes(2_048), NEFF[:1_000], NEFF[:-1]])
def test_an_entry_whose_neff_is_none_is_unreadable_and_goes_with_the_half_written(cache, data):
    (next(cache.glob("*/MODULE_5+*")) / "model.neff").write_bytes(data)
    listing = list_cache(cache)
    (five,) = [one for one in listing.entries if one.hlo_hash == "5"]
    assert five.status == "unreadable"
    assert any("MODULE_5+d41d8cd9/model.neff" in note for note in listing.notes)
    assert chosen(cache, incomplete=True)[0] == ["3", "4", "5"]
    reasons = {one.entry.hlo_hash: one.reason for one in select(listing, Wanted(incomplete=True)).chosen}
    assert reasons["5"] == "its NEFF cannot be read"
    assert found(cache)["entry-incomplete"] == 3


def test_many_unreadable_neffs_are_counted_rather_than_listed(tmp_path):
    for number in range(9):
        entry(tmp_path, str(number), data=bytes(4))
    notes = list_cache(tmp_path).notes
    assert len(notes) == 4
    assert notes[-1] == "6 more entries have a NEFF that cannot be read"


def test_versions_are_compared_as_numbers(cache):
    assert newest_compiler(list_cache(cache).entries) == writer.COMPILER  # 2.22, not 2.9


def test_a_compiler_that_no_entry_is_of_is_refused(cache):
    with pytest.raises(UsageError, match=r"no entry is of compiler '2\.1'"):
        select(list_cache(cache), Wanted(compiler="2.1"))


def test_only_what_was_chosen_goes_and_its_empty_folders(cache):
    before = everything(cache)
    selection = select(list_cache(cache), Wanted(compiler=OTHERS, failed=True))
    deleted = list(delete_entries(check_root(cache), [one.entry for one in selection.chosen]))
    assert [one.error for one in deleted] == ["", ""]
    gone = {path for path in before if path.startswith(OLD) or "MODULE_2+" in path}
    assert everything(cache) == before - gone
    assert sum(one.freed_bytes for one in deleted) == selection.size_bytes


def test_a_file_that_no_cache_made_stays_with_its_folder(cache):
    folder = next(cache.glob("*/MODULE_2+*"))
    (folder / "analysis.txt").write_text("mine")
    (one,) = delete_entries(check_root(cache), [e for e in list_cache(cache).entries if e.hlo_hash == "2"])
    assert (one.error, [path.name for path in folder.iterdir()]) == ("", ["analysis.txt"])
    assert "analysis.txt" in one.note


def test_links_are_neither_followed_nor_deleted(cache, tmp_path):
    outside = tmp_path / "outside"
    entry(outside, "9", data=None, done=False, log="error")
    kept = everything(outside)
    (cache / writer.COMPILER / "MODULE_9+d41d8cd9").symlink_to(next(outside.glob("*/*")), target_is_directory=True)
    folder = next(cache.glob("*/MODULE_2+*"))
    (folder / "model.neff").symlink_to(next(outside.glob("*/*/compile_flags.json")))
    listing = list_cache(cache)
    assert "9" not in {one.hlo_hash for one in listing.entries}
    list(delete_entries(check_root(cache), listing.entries))
    assert everything(outside) == kept
    assert (folder / "model.neff").is_symlink()


def test_a_folder_that_became_a_link_meanwhile_is_left_alone(cache, tmp_path):
    outside = tmp_path / "outside"
    entry(outside, "2")
    kept = everything(outside)
    (two,) = [one for one in list_cache(cache).entries if one.hlo_hash == "2"]
    folder = cache / two.folder
    folder.rename(tmp_path / "moved")
    folder.symlink_to(next(outside.glob("*/*")), target_is_directory=True)
    (one,) = delete_entries(check_root(cache), [two])
    assert one.error
    assert everything(outside) == kept


def test_a_file_that_became_a_link_meanwhile_stays(cache, tmp_path):
    (outside := tmp_path / "outside").write_text("mine")
    (two,) = [one for one in list_cache(cache).entries if one.hlo_hash == "2"]
    log = cache / two.folder / "model.log"
    log.unlink()
    log.symlink_to(outside)
    list(delete_entries(check_root(cache), [two]))
    assert log.is_symlink()
    assert outside.read_text() == "mine"


def test_an_entry_that_vanished_is_no_error(cache, tmp_path):
    listing = list_cache(cache)
    next(cache.glob("*/MODULE_1+*")).rename(tmp_path / "moved")
    (one,) = delete_entries(check_root(cache), [one for one in listing.entries if one.hlo_hash == "1"])
    assert (one.error, one.freed_bytes) == ("", 0)


def test_an_entry_whose_lock_is_held_is_not_deleted(cache):
    import fcntl

    folder = next(cache.glob("*/MODULE_4+*"))
    before = everything(folder)
    with next(folder.glob("*.lock")).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (one,) = delete_entries(check_root(cache), [e for e in list_cache(cache).entries if e.hlo_hash == "4"])
    assert one.error == "something holds its lock"
    assert everything(folder) == before


def test_jax_s_entries_go_as_pairs_and_other_files_stay(tmp_path):
    jax_entry(tmp_path, age_s=40 * 86_400)
    jax_entry(tmp_path, digit="1")
    (tmp_path / "jit_f-cache").write_text("no key: not JAX's")
    selection = select(list_cache(tmp_path), Wanted(older_than_s=86_400.0))
    list(delete_entries(check_root(tmp_path), [one.entry for one in selection.chosen]))
    assert everything(tmp_path) == {f"jit_f-{'1' * 64}-cache", f"jit_f-{'1' * 64}-atime", "jit_f-cache"}


def test_folders_that_a_person_made_are_never_chosen(tmp_path):
    writer.matmul_entry(tmp_path, 128, 128, 512)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model.neff").write_bytes(NEFF)
    assert select(list_cache(tmp_path), Wanted(max_bytes=0, older_than_s=0.0)).chosen == ()


@pytest.mark.parametrize("folder", ["/", "/usr", "/tmp", "~", "~/.."])
def test_a_root_that_is_no_cache_folder_is_refused(folder):
    from pathlib import Path

    with pytest.raises(UsageError, match="nothing is deleted in a home"):
        check_root(Path(folder).expanduser())


def test_a_root_above_the_current_folder_is_refused(tmp_path, monkeypatch):
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    with pytest.raises(UsageError, match="holds the current folder"):
        check_root(tmp_path)


def test_what_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for name in ("file", "nothing"):
        with pytest.raises(UsageError):
            check_root(tmp_path / name)
        with pytest.raises(FormatError):
            list_cache(tmp_path / name)


def test_ages_follow_the_newest_file(tmp_path):
    aged(entry(tmp_path, "1"), 5_000)
    (one,) = list_cache(tmp_path).entries
    assert time.time() - one.used_s == pytest.approx(5_000, abs=60)
    os.utime(next(tmp_path.glob("*/*/model.done")))
    (one,) = list_cache(tmp_path).entries
    assert time.time() - one.used_s < 60
