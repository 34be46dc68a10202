"""Which file of a folder is of which pattern: by the order of the runs, by the mapping, by its name; never a file outside."""

import json
import os
from datetime import datetime, timezone

import pytest

from npuscope.errors import FormatError, UsageError
from npuscope.formats.pattern_folder import (
    BY_MAPPING,
    BY_NAME,
    BY_ORDER,
    MAPPING_NAME,
    find_profile,
    read_mapping,
    read_pattern,
    write_mapping,
)
from tests.writers.neff import matmul_members, neff_bytes
from tests.writers.ntff import small_capture

FOREIGN = "/tmp/neuron_hardware_profiles_x"


def put(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def foreign(folder, order=(), profiles=None):
    document = {
        "pattern_execution_order": [list(entry) for entry in order],
        "pattern_profile_mapping": profiles or {},
        "perfetto_files": [],
        "generated_timestamp": "2025-09-01T00:00:00",
    }
    (folder / MAPPING_NAME).write_text(json.dumps(document))


def test_what_is_written_is_read(tmp_path):
    put(tmp_path, "a/vmap.ntff", "scan.ntff", "vmap.pftrace")
    order = [("vmap", tmp_path / "a/vmap.ntff"), ("scan", tmp_path / "scan.ntff")]
    when = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
    path = write_mapping(tmp_path, order, [tmp_path / "vmap.pftrace"], generated=when)
    assert list(json.loads(path.read_text())) == [
        "pattern_execution_order", "pattern_profile_mapping", "perfetto_files", "generated_timestamp",
    ]  # fmt: skip
    found = read_mapping(tmp_path)
    assert found.execution_order == (("vmap", "a/vmap.ntff"), ("scan", "scan.ntff"))
    assert dict(found.profiles) == {"a/vmap.ntff": "vmap", "scan.ntff": "scan"}
    assert (found.perfetto_files, found.generated) == (("vmap.pftrace",), "2026-01-02T03:04:05+00:00")
    assert find_profile(tmp_path, "vmap") == (tmp_path / "a/vmap.ntff", BY_ORDER)


def test_a_mapping_only_names_files_of_its_folder(tmp_path):
    inside = tmp_path / "in"
    inside.mkdir()
    put(tmp_path, "out.ntff")
    with pytest.raises(UsageError, match="not in"):
        write_mapping(inside, [("vmap", tmp_path / "out.ntff")], [])


def test_the_latest_run_whose_file_exists_goes_first(tmp_path):
    put(tmp_path, "1.ntff", "2.ntff", "vmap.ntff")
    order = [("vmap", "1.ntff"), ("vmap", "2.ntff"), ("scan", "vmap.ntff"), ("vmap", "3.ntff")]
    foreign(tmp_path, order, {"1.ntff": "vmap"})
    assert find_profile(tmp_path, "vmap") == (tmp_path / "2.ntff", BY_ORDER)


def test_then_the_mapping_and_then_the_name(tmp_path):
    put(tmp_path, "1.ntff", "sub/my_scan_x.ntff")
    foreign(tmp_path, [("vmap", "gone.ntff")], {"gone.ntff": "vmap", "1.ntff": "vmap"})
    assert find_profile(tmp_path, "vmap") == (tmp_path / "1.ntff", BY_MAPPING)
    assert find_profile(tmp_path, "scan") == (tmp_path / "sub/my_scan_x.ntff", BY_NAME)


def test_absolute_paths_of_another_machine_are_found_by_their_name(tmp_path):
    put(tmp_path, "i-0_pid_7/x.ntff", "i-0_pid_8/x.ntff", "only.ntff")
    foreign(tmp_path, [("vmap", f"{FOREIGN}/i-0_pid_8/x.ntff"), ("scan", f"{FOREIGN}/deep/only.ntff")])
    assert find_profile(tmp_path, "vmap") == (tmp_path / "i-0_pid_8/x.ntff", BY_ORDER)
    assert find_profile(tmp_path, "scan") == (tmp_path / "only.ntff", BY_ORDER)


def test_an_absolute_path_that_could_be_two_files_is_none(tmp_path):
    put(tmp_path, "a/x.ntff", "b/x.ntff")
    foreign(tmp_path, [("vmap", f"{FOREIGN}/x.ntff")])
    with pytest.raises(UsageError, match="no profile of pattern 'vmap'"):
        find_profile(tmp_path, "vmap")


@pytest.mark.parametrize(
    "told", ["../secret.ntff", "a/../../secret.ntff", "link.ntff", "folder/secret.ntff", "\0", "", "."]
)
def test_a_path_that_leaves_the_folder_is_not_followed(tmp_path, told):
    folder = tmp_path / "in"
    folder.mkdir()
    put(tmp_path, "secret.ntff", "outside/secret.ntff")
    (folder / "link.ntff").symlink_to(tmp_path / "secret.ntff")
    (folder / "folder").symlink_to(tmp_path / "outside")
    foreign(folder, [("vmap", told)], {told: "vmap"})
    with pytest.raises(UsageError, match="no profile"):
        find_profile(folder, "vmap")


def test_an_absolute_path_is_not_opened_where_it_points(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    put(tmp_path, "secret.ntff")
    foreign(folder, [("vmap", str(tmp_path / "secret.ntff"))])
    with pytest.raises(UsageError, match="no profile"):
        find_profile(folder, "vmap")


def test_of_several_names_the_pattern_as_a_word_goes_first(tmp_path):
    put(tmp_path, "nested-vmap_hardware.pftrace", "vmap_hardware.pftrace", "vmapping.pftrace", "vmap.txt")
    assert find_profile(tmp_path, "vmap") == (tmp_path / "vmap_hardware.pftrace", BY_NAME)
    assert find_profile(tmp_path, "nested-vmap")[0].name == "nested-vmap_hardware.pftrace"
    put(tmp_path, "later_vmap.ntff")
    assert find_profile(tmp_path, "vmap")[0].name == "later_vmap.ntff"


def test_a_name_that_several_files_have_is_refused(tmp_path):
    put(tmp_path, "scan_3.ntff", "scan_30.ntff")
    with pytest.raises(UsageError, match=r"several files.*scan_3.ntff, scan_30.ntff"):
        find_profile(tmp_path, "scan")
    assert find_profile(tmp_path, "scan_3")[0].name == "scan_3.ntff"


def test_a_pattern_that_is_not_there_is_one_line_with_those_that_are(tmp_path):
    foreign(tmp_path, [("vmap", "x"), ("scan", "y")])
    with pytest.raises(UsageError, match="its mapping knows vmap, scan"):
        find_profile(tmp_path, "loop")
    with pytest.raises(UsageError, match="is no folder"):
        find_profile(tmp_path / "gone", "loop")
    with pytest.raises(UsageError, match="empty"):
        find_profile(tmp_path, "")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "JSON"),
        ("[]", "an object"),
        ("{", "JSON"),
        ('{"pattern_execution_order": {}}', "pattern_execution_order: expected an array"),
        ('{"pattern_execution_order": [["vmap"]]}', r"pattern_execution_order\[0\]: expected a pair"),
        ('{"pattern_execution_order": [["vmap", 3]]}', "expected text"),
        ('{"pattern_profile_mapping": []}', "expected an object"),
        ('{"pattern_profile_mapping": {"a": null}}', "expected text"),
        ('{"perfetto_files": [1]}', r"perfetto_files\[0\]"),
        ('{"generated_timestamp": []}', "generated_timestamp"),
        ('{"perfetto_files": ' + "[" * 100_000, "nesting too deep"),
    ],
)
def test_a_damaged_mapping_is_one_format_error(tmp_path, text, words):
    (tmp_path / MAPPING_NAME).write_text(text)
    with pytest.raises(FormatError, match=words):
        read_mapping(tmp_path)
    with pytest.raises(FormatError):
        find_profile(tmp_path, "vmap")


def test_a_mapping_that_is_no_file_is_refused(tmp_path):
    with pytest.raises(FormatError, match="regular file"):
        read_mapping(tmp_path)
    os.mkfifo(tmp_path / MAPPING_NAME)
    with pytest.raises(FormatError, match="regular file"):
        read_mapping(tmp_path)


def test_a_capture_comes_with_the_neff_of_its_uuid_and_not_with_the_first(tmp_path):
    for number, pattern in enumerate(["vmap", "scan"]):
        made = small_capture()
        made.uuid = bytes([number + 1] * 16)
        (tmp_path / f"{pattern}.ntff").write_bytes(made.data())
        (tmp_path / f"{number}.neff").write_bytes(neff_bytes(matmul_members(), uuid=made.uuid))
    for number, pattern in enumerate(["vmap", "scan"]):
        profile, how = read_pattern(tmp_path, pattern)
        assert how == BY_NAME
        assert any(note.endswith(f"paired by UUID with {tmp_path / f'{number}.neff'}") for note in profile.notes)
