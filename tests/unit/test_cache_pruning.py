"""What `cache prune` may delete: exact names in exact places, as they were listed; never a file of a user's."""

import os
import shutil
from pathlib import Path

import pytest

from npuscope.analysis import cache_selection
from npuscope.analysis.cache_selection import OTHERS, Wanted, parse_age, parse_size, select
from npuscope.errors import UsageError
from npuscope.formats import cache_deletion, cache_listing
from npuscope.formats.cache_deletion import check_root, delete_entries
from npuscope.formats.cache_layouts import maker_of, names_of
from npuscope.formats.cache_listing import list_cache
from npuscope.formats.cache_walk import find_entries
from tests.unit.test_cache_folders import OLD, entry, everything, jax_entry
from tests.writers import compile_cache as writer

MD5 = "0123456789abcdef" * 2
ENTRY = f"{writer.COMPILER}/MODULE_111+d41d8cd9"
EVERYTHING = Wanted(failed=True, incomplete=True, older_than_s=0.0, max_bytes=0)


def put(root, *paths, age_s=40 * 86_400):
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"mine")
        writer.aged(file, age_s)


def prune(root, wanted=EVERYTHING):
    selection = select(list_cache(root), wanted)
    return list(delete_entries(check_root(root), [one.entry for one in selection.chosen]))


def files_of(root):
    return {path for path in everything(root) if not (root / path).is_dir()}


# places


@pytest.mark.parametrize(
    "paths",
    [
        (f"projects/{MD5}/Cargo.lock",),
        (f"{MD5}/poetry.lock",),
        (f"work/{MD5}/yarn.lock", f"work/{MD5}/graph_theory.log"),
        (f"{MD5}/yarn.lock", f"{MD5}/graph_theory.log", f"{MD5}/graph_theory.neff"),
        (f"work/{MD5}/graph.neff", f"work/{MD5}/.compilation_complete"),
        ("course/MODULE_3/exercise/model.log", "course/MODULE_3/exercise/model.hlo.pb", "course/MODULE_3/exercise/uv.lock"),
        ("course/MODULE_3/model.log", "course/MODULE_3/model.hlo.pb", "course/MODULE_3/model.neff"),
        ("MODULE_3/model.neff", "MODULE_3/model.done"),
        (f"{writer.COMPILER}/notes/MODULE_3/model.neff", f"{writer.COMPILER}/notes/MODULE_3/model.done"),
        (f"{writer.COMPILER}/MODULE_3+aa.bak/model.neff", f"{writer.COMPILER}/my_MODULE_3+aa/model.neff"),
        (f"{writer.COMPILER}/MODULE_3+aa\n/model.neff", f"{MD5}\n/.compilation_complete"),
        ("neuronxcc-notes/MODULE_3+aa/model.neff",),
        (f"my-{writer.COMPILER}/MODULE_3+aa/model.neff", f"{writer.COMPILER}\n/MODULE_3+aa/model.neff"),
        (f"{ENTRY}/model.hlo_module.pb.lock", f"{ENTRY}/model.log", f"{ENTRY}/poetry.lock"),
        (f"{MD5}/graph.neff", f"{MD5}/thesis.txt"),
        (f"{MD5.upper()}/graph.neff", f"{MD5}0/graph.neff"),
        (f"report-{'0' * 64}-atime", f"report-{'1' * 63}-cache", f"sub/report-{'2' * 64}-cache"),
    ],
)  # fmt: skip
def test_what_lies_elsewhere_or_has_no_mark_is_never_deleted(tmp_path, paths):
    put(tmp_path, *paths)
    assert prune(tmp_path) == []
    assert files_of(tmp_path) == set(paths)
    assert not any(one.is_prunable for one in list_cache(tmp_path).entries)


def test_a_folder_that_a_user_made_in_an_entry_stays_whole(tmp_path):
    put(tmp_path, f"{ENTRY}/my_notes/model.log", f"{ENTRY}/my_notes/model.neff", f"{ENTRY}/my_notes/poetry.lock")
    put(tmp_path, f"{ENTRY}/model.hlo_module.pb", f"{ENTRY}/model.log")
    mine = {path for path in files_of(tmp_path) if "my_notes" in path}
    (told,) = prune(tmp_path)
    assert files_of(tmp_path) == mine
    assert (told.key, told.error) == (ENTRY, "")
    assert "stays" in told.note


@pytest.mark.parametrize(
    "name",
    ["poetry.lock", "lock", "model.lock", "graph.hlo", "my model.neff.bak", "graph_theory.log", "model.log.gz", "model.log\n"],
)  # fmt: skip
def test_a_users_file_in_an_entry_stays_with_its_folder(tmp_path, name):
    put(tmp_path, f"{ENTRY}/model.neff", f"{ENTRY}/model.done", f"{ENTRY}/{name}")
    (told,) = prune(tmp_path)
    assert files_of(tmp_path) == {f"{ENTRY}/{name}"}
    assert name in told.note


@pytest.mark.parametrize("name", ["graph.neff", "\nmodel.neff", "Model.neff"])
def test_an_entry_with_a_users_program_is_left_alone(tmp_path, name):
    put(tmp_path, f"{ENTRY}/model.neff", f"{ENTRY}/model.done", f"{ENTRY}/{name}")
    kept = everything(tmp_path)
    assert prune(tmp_path) == []
    assert everything(tmp_path) == kept


@pytest.mark.parametrize(
    "paths",
    [
        tuple(f"{ENTRY}/{name}" for name in sorted(names_of("neuron", ENTRY))),
        (f"shared/{ENTRY}/model.hlo.pb", f"shared/{ENTRY}/model.log"),
        ("USER_neuroncc-1.0.2/MODULE_12+0a/model.neff",),
        tuple(f"{MD5}/{name}" for name in sorted(names_of("vllm", MD5))),
        (f"{MD5}/graph.neff",),
        (f"jit_f-{'0' * 64}-cache", f"jit_f-{'0' * 64}-atime"),
    ],
)
def test_all_of_what_a_cache_made_goes(tmp_path, paths):
    put(tmp_path, *paths)
    (told,) = prune(tmp_path)
    assert (told.error, told.note, told.freed_bytes) == ("", "", 4 * len(paths))
    assert files_of(tmp_path) == set()


def test_the_folder_of_one_compiler_can_be_given_also_by_a_link(tmp_path):
    entry(tmp_path, "1", data=None, done=False)
    folder, link = tmp_path / writer.COMPILER, tmp_path / "link"
    link.symlink_to(folder, target_is_directory=True)
    assert [one.is_prunable for one in list_cache(link).entries] == [True]
    assert [one.error for one in prune(folder)] == [""]
    assert everything(folder) == set()


def test_an_entry_that_was_not_read_whole_is_nobody_s(tmp_path, monkeypatch):
    """Its mark may lie beyond the limit: it would look half-written."""
    put(tmp_path, f"{ENTRY}/model.neff", f"{ENTRY}/model.done", f"{ENTRY}/compile_flags.json")
    monkeypatch.setattr(cache_listing, "find_entries", lambda root: find_entries(root, 4))
    assert [one.made_by for one in list_cache(tmp_path).entries] == [""]


def test_an_entry_with_a_link_is_nobody_s(tmp_path):
    put(tmp_path, "store/blob", f"cache/{ENTRY}/model.hlo_module.pb")
    (tmp_path / f"cache/{ENTRY}/model.neff").symlink_to(tmp_path / "store/blob")
    assert prune(tmp_path / "cache") == []


def test_jax_s_pairs_that_were_not_all_read_are_left_alone(tmp_path, monkeypatch):
    """The time of the last use may be in the file that was not read."""
    put(tmp_path, f"jit_f-{'0' * 64}-cache", f"jit_f-{'1' * 64}-cache")
    assert [one.is_prunable for one in list_cache(tmp_path).entries] == [True, True]
    monkeypatch.setattr(cache_listing, "ENTRY_LIMIT", 1)
    assert [one.is_prunable for one in list_cache(tmp_path).entries] == [False]


def test_who_made_an_entry_follows_its_own_folder_and_the_one_above():
    assert maker_of("cache", ENTRY, ["model.neff"]) == "neuron"
    assert maker_of(writer.COMPILER, "MODULE_1+aa", ["model.neff"]) == "neuron"
    assert maker_of("cache", "MODULE_1+aa", ["model.neff"]) == ""
    assert maker_of(writer.COMPILER, ".", ["model.neff"]) == ""
    assert maker_of("cache", MD5, ["graph.neff"]) == "vllm"
    assert maker_of("cache", MD5, [f"graph_{'0' * 32}.neff", "model.neff"]) == ""


# changes between listing and deletion


def chosen_of(root):
    return [one.entry for one in select(list_cache(root), EVERYTHING).chosen]


def left_alone(root, entries):
    before = everything(root)
    (told,) = delete_entries(check_root(root), entries)
    return told.error, everything(root) == before


def test_an_entry_that_was_finished_meanwhile_is_left_alone(tmp_path):
    put(tmp_path, f"{ENTRY}/model.hlo_module.pb")
    entries = chosen_of(tmp_path)
    put(tmp_path, f"{ENTRY}/model.neff", f"{ENTRY}/model.done")
    assert left_alone(tmp_path, entries) == ("it changed since it was listed", True)


def test_a_file_that_was_written_again_meanwhile_is_left_alone(tmp_path):
    put(tmp_path, f"{ENTRY}/model.neff", f"{ENTRY}/model.done")
    entries = chosen_of(tmp_path)
    put(tmp_path, f"{ENTRY}/model.neff", age_s=0)
    assert left_alone(tmp_path, entries) == ("it changed since it was listed", True)


def test_jax_s_entry_that_was_used_meanwhile_is_left_alone(tmp_path):
    jax_entry(tmp_path, age_s=40 * 86_400)
    entries = chosen_of(tmp_path)
    os.utime(tmp_path / f"jit_f-{'0' * 64}-atime")
    assert left_alone(tmp_path, entries) == ("it changed since it was listed", True)


@pytest.mark.parametrize("name", ["model.neff", "model.done", "model.log"])
def test_an_entry_of_which_a_file_became_a_link_is_left_alone(tmp_path, name):
    """Also where the link has the size and the time of the file."""
    put(tmp_path, *(f"{ENTRY}/{one}" for one in ("model.neff", "model.done", "model.log")))
    entries, path = chosen_of(tmp_path), tmp_path / ENTRY / name
    status = path.stat()
    path.rename(tmp_path / "mine")
    path.symlink_to("mine")
    os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns), follow_symlinks=False)
    assert left_alone(tmp_path, entries) == ("it changed since it was listed", True)


@pytest.mark.parametrize("part", [writer.COMPILER, ENTRY])
def test_a_folder_that_became_a_link_leads_nowhere(tmp_path, part):
    cache, outside = tmp_path / "cache", tmp_path / "outside"
    put(cache, f"{ENTRY}/model.neff", f"{ENTRY}/model.done")
    entries = chosen_of(cache)
    shutil.copytree(cache, outside)  # with all times, so that nothing but the link tells the two apart
    (cache / part).rename(tmp_path / "moved")
    (cache / part).symlink_to(outside / part, target_is_directory=True)
    before = everything(tmp_path)
    (told,) = delete_entries(check_root(cache), entries)
    assert told.error
    assert everything(tmp_path) == before


def test_a_lock_that_became_a_pipe_does_not_hang(tmp_path):
    lock = f"{ENTRY}/model.hlo_module.pb.lock"
    put(tmp_path, f"{ENTRY}/model.hlo_module.pb", lock)
    entries = chosen_of(tmp_path)
    (tmp_path / lock).unlink()
    os.mkfifo(tmp_path / lock)
    assert left_alone(tmp_path, entries) == ("it changed since it was listed", True)


def test_what_no_cache_made_is_not_deleted_even_when_it_is_asked_for(tmp_path):
    put(tmp_path, f"work/{MD5}/graph.neff", "mine/model.neff")
    entries = list_cache(tmp_path).entries
    assert [one.error for one in delete_entries(check_root(tmp_path), entries)] == [
        "it is not for sure a cache's alone"
    ] * 2
    assert len(files_of(tmp_path)) == 2


@pytest.mark.parametrize(
    ("folder", "mark"), [(ENTRY, "model.done"), (MD5, ".compilation_complete")], ids=["neuron", "vllm"]
)
def test_the_mark_that_an_entry_is_whole_goes_first(tmp_path, monkeypatch, folder, mark):
    names = sorted(names_of("neuron" if folder == ENTRY else "vllm", folder))
    put(tmp_path, *(f"{folder}/{name}" for name in names))
    entries, order, unlink = chosen_of(tmp_path), [], os.unlink

    def noted(name, **fields):
        order.append(name)
        unlink(name, **fields)

    monkeypatch.setattr(cache_deletion.os, "unlink", noted)
    list(delete_entries(check_root(tmp_path), entries))
    assert order[0] == mark
    assert sorted(order) == names


# what is asked for


def test_a_size_is_of_what_can_go_and_what_else_is_there_is_told(tmp_path):
    put(tmp_path, f"{ENTRY}/model.neff", f"{ENTRY}/model.done")
    (tmp_path / "matmul_1x1x1").mkdir()
    (tmp_path / "matmul_1x1x1" / "graph.neff").write_bytes(bytes(100_000))
    selection = select(list_cache(tmp_path), Wanted(max_bytes=8))
    assert selection.chosen == ()
    assert (selection.prunable, selection.prunable_bytes, selection.others, selection.other_bytes) == (1, 8, 1, 100_000)
    assert len(select(list_cache(tmp_path), Wanted(max_bytes=7)).chosen) == 1


def test_the_compilers_are_told_apart_once_for_all_entries(tmp_path, monkeypatch):
    for number in range(20):
        entry(tmp_path, str(number), compiler=OLD if number % 2 else writer.COMPILER)
    asked, newest = [], cache_selection.newest_compiler
    monkeypatch.setattr(cache_selection, "newest_compiler", lambda entries: asked.append(1) or newest(entries))
    assert len(select(list_cache(tmp_path), Wanted(compiler=OTHERS)).chosen) == 10
    assert len(asked) == 1


@pytest.mark.parametrize("text", ["١d", "1٠d", "1\u2028d"])
def test_ages_are_written_in_ascii(text):
    with pytest.raises(UsageError, match="30d"):
        parse_age(text)


@pytest.mark.parametrize("text", ["١G", "5\u212a", "5\u00a0G"])  # U+212A is the sign of the kelvin
def test_sizes_are_written_in_ascii(text):
    with pytest.raises(UsageError, match="10G"):
        parse_size(text)


@pytest.mark.parametrize("place", [".", "..", "../..", "../link"])
def test_a_home_and_all_above_it_are_refused(tmp_path, monkeypatch, place):
    home = tmp_path / "homes" / "me"
    (home / "cache").mkdir(parents=True)
    (home.parent / "link").symlink_to(home, target_is_directory=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(Path(__file__).parent)
    with pytest.raises(UsageError, match="nothing is deleted in a home"):
        check_root(home / place)
    assert check_root(home / "cache") == (home / "cache").resolve()


def test_the_newest_file_of_the_cache_s_own_tells_the_age(tmp_path):
    put(tmp_path, f"{ENTRY}/model.neff", f"{ENTRY}/model.done")
    put(tmp_path, f"{ENTRY}/notes.txt", age_s=0)
    (told,) = prune(tmp_path, Wanted(older_than_s=86_400.0))
    assert told.error == ""
    assert files_of(tmp_path) == {f"{ENTRY}/notes.txt"}
