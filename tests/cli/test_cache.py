"""`npuscope cache`: what its commands promise to people and scripts."""

import importlib.util
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import strict_json
from tests.unit.test_cache_folders import OLD, aged, entry, everything, jax_entry
from tests.unit.test_recompile_log import compiled, hit
from tests.writers import compile_cache as writer

PLANTED = Path(__file__).parent.parent / "recompiling"
needs_jax = pytest.mark.skipif(
    importlib.util.find_spec("jax") is None, reason="JAX is not installed: pip install 'npuscope[jax]'"
)
CONTRACT = ["calls", "compiles", "cache_hits", "cause", "fix"]


@pytest.fixture
def cache(tmp_path):
    root = tmp_path / "cache"
    aged(entry(root, "1"), 40 * 86_400)
    entry(root, "2", data=None, done=False, log="error")
    entry(root, "3", compiler=OLD)
    return root


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "train.log"
    path.write_text("\n".join([compiled("MODULE_1+aa"), hit("MODULE_1+aa", 8), compiled("MODULE_1+aa", 10)]) + "\n")
    return path


# the group


def test_the_group_by_itself_tells_its_commands(call_cli):
    answer = call_cli("cache")
    assert answer.returncode == 0
    assert all(f"  {name}" in answer.stdout for name in ("doctor", "ls", "du", "prune"))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("cache", "l"), "unknown command 'cache l'; did you mean 'ls'?"),
        (("cache", "doktor"), "unknown command 'cache doktor'; did you mean 'doctor'?"),
        (("cache", "zzz"), "commands: doctor, ls, du, prune"),
        (("cahce", "ls"), "did you mean 'cache'?"),
        (("cache", "ls", "--nope"), "see npuscope cache ls --help"),
        (("cache", "--nope"), "see npuscope cache --help"),
        (("matmul", "--nope"), "see npuscope matmul --help"),
    ],
)
def test_wrong_words_are_told_with_the_nearest_right_ones(call_cli, assert_one_line_error, words, text):
    assert_one_line_error(call_cli(*words), 2, text)


# doctor


@needs_jax
def test_the_contract_of_the_doctor_on_a_script(run_cli):
    answer = run_cli("cache", "doctor", PLANTED / "shape_change.py", "--json")
    assert answer.returncode == 0, answer.stderr
    document = strict_json(answer.stdout)
    assert list(document)[:5] == CONTRACT
    assert [document[key] for key in CONTRACT[:4]] == [4, 4, 0, "shape-change"]
    assert "npuscope buckets" in document["fix"]
    assert (document["recompiles"], document["is_simulated"], document["framework"]) == (3, False, "jax")
    assert document["findings"][0]["fix"] == document["fix"]
    told = [(one["call"], one["arguments"], one["cause"]) for one in document["compilations"]]
    assert told == [(at, [f"0: float32[{8 + at},8]"], "shape-change" if at else "none") for at in range(4)]
    assert len({one["key"] for one in document["compilations"]}) == 4


@needs_jax
def test_a_person_is_told_verdict_functions_evidence_and_fix(run_cli):
    answer = run_cli("cache", "doctor", f"{PLANTED / 'functions.py'}:growing", "--calls", "3", "--check")
    assert answer.returncode == 1, answer.stderr
    assert answer.stdout.startswith("calls recompile: 3 calls, 3 compilations, 2 of them again, which took ")
    for text in (
        "functions.py:11",
        "shape-change: 2 compilations",
        "argument 0: float32[4] -> float32[5]",
        "fix: pad to",
    ):
        assert text in answer.stdout


@needs_jax
def test_what_the_script_prints_is_no_part_of_the_document_and_its_failure_is_exit_code_1(run_cli):
    answer = run_cli("cache", "doctor", PLANTED / "failing.py", "--json")
    assert answer.returncode == 1
    document = strict_json(answer.stdout)
    assert (document["status"], document["compiles"]) == ("failed", 2)
    assert "ValueError" in answer.stderr


@needs_jax
def test_words_after_two_dashes_are_the_scripts_own(run_cli, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nassert sys.argv[1:] == ['--json', '--', '-x'], sys.argv\nimport jax\njax.jit(lambda x: x)(1.0)\n"
    )
    answer = run_cli("cache", "doctor", "script.py", "--json", "--check", "--", "--json", "--", "-x")
    assert answer.returncode == 0, answer.stderr
    assert strict_json(answer.stdout)["compiles"] == 1


def test_a_log_is_read_and_the_gate_fails(call_cli, log):
    answer = call_cli("cache", "doctor", log, "--json")
    document = strict_json(answer.stdout)
    assert answer.returncode == 0
    assert [document[key] for key in CONTRACT[:4]] == [3, 2, 1, "cache-not-kept"]
    assert document["sequence"] == ["compiled MODULE_1+aa", "hit MODULE_1+aa", "compiled MODULE_1+aa"]
    assert call_cli("cache", "doctor", log, "--check").returncode == 1


def test_notes_are_broken_at_words_on_a_terminal(call_cli, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    for name in ("1", "2"):
        (entry(cache, name) / "model.hlo_module.pb.gz").write_bytes(b"damaged")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    (cache / "a folder with a long name").symlink_to(tmp_path)
    lines = call_cli("cache", "doctor", cache).stderr.splitlines()
    assert any(line.startswith("note: ") for line in lines)
    assert any(line.startswith("    ") for line in lines)
    assert all(len(line) < 100 or " " not in line.strip() for line in lines)


def test_a_hit_among_programs_that_were_compiled_once_does_not_pass_the_gate(call_cli, tmp_path):
    path = tmp_path / "train.log"
    lines = [compiled(f"MODULE_70{n}+aa", 8 * n) for n in range(6)]
    path.write_text("\n".join([*lines, hit("MODULE_701+aa", 55)]) + "\n")
    answer = call_cli("cache", "doctor", path, "--check")
    assert answer.returncode == 1
    assert answer.stdout.startswith("not known whether calls recompile: 7 requests, 6 compilations, 1 cache hit")


def test_a_script_that_fails_at_once_is_told_by_its_error(call_cli, tmp_path):
    (tmp_path / "early.py").write_text("raise ValueError('no config')\n")
    answer = call_cli("cache", "doctor", tmp_path / "early.py")
    assert answer.returncode == 1
    assert answer.stdout == (
        "not known whether calls recompile: the program ended with ValueError: no config, before it imported jax or torch_xla\n"
    )


def test_the_gate_passes_where_nothing_is_compiled_twice(call_cli, tmp_path):
    path = tmp_path / "good.log"
    path.write_text("\n".join([compiled("MODULE_1+aa"), hit("MODULE_1+aa", 8)]) + "\n")
    answer = call_cli("cache", "doctor", path, "--check")
    assert answer.returncode == 0
    assert "calls do not recompile: 2 requests, 1 compilation, 1 cache hit" in answer.stdout


def test_a_cache_folder_is_read(call_cli, cache):
    answer = call_cli("cache", "doctor", cache, "--json")
    document = strict_json(answer.stdout)
    assert answer.returncode == 0
    assert (document["calls"], document["cache_hits"]) == (None, None)
    assert {one["cause"] for one in document["findings"]} == {"failed-compile-cached"}  # compared with no other
    assert document["summary"] == "3 entries, 2 of their programs compared: no two are alike"
    assert "failed-compile-cached: 1 failure" in call_cli("cache", "doctor", cache).stdout


def test_results_of_npuscope_are_read(call_cli, measured):
    document = strict_json(call_cli("cache", "doctor", measured, "--json").stdout)
    assert (document["calls"], document["compiles"], document["cause"]) == (2, 0, "none")  # NumPy compiles nothing


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("nothing.py",), 2, "there is no script nothing.py"),
        (("nothing",), 2, "there is no 'nothing'"),
        (("s3://bucket/cache",), 2, "only folders of this machine"),
        (("plain.py", "plain.py"), 2, "2 programs are given"),
        (("plain.py", "--calls", "0"), 2, "--calls 0 must lie between"),
        (("plain.py", "--runs", "99"), 2, "--runs 99 must lie between"),
        (("plain.py", "--time-limit", "nan"), 2, "--time-limit nan"),
        (("train.txt", "--", "x"), 2, "none of the targets is a script"),
        (("noise",), 3, "found"),
        (("plain.py:nothing",), 2, "plain.py has no nothing"),
        ((), 2, "TARGET"),
    ],
)
def test_wrong_use_is_one_line(call_cli, assert_one_line_error, tmp_path, log, words, code, text):
    (tmp_path / "plain.py").write_text("")
    (tmp_path / "noise").write_bytes(bytes(range(256)))
    log.rename(tmp_path / "train.txt")
    assert_one_line_error(call_cli("cache", "doctor", *words), code, text)


# ls, du, prune


def test_entries_are_listed_with_key_state_compiler_shape_size_and_age(call_cli, cache):
    answer = call_cli("cache", "ls", cache, "--json")
    rows = strict_json(answer.stdout)["entries"]
    assert {(row["hlo_hash"], row["status"], row["compiler"]) for row in rows} == {
        ("1", "complete", writer.COMPILER),
        ("2", "failed", writer.COMPILER),
        ("3", "complete", OLD),
    }
    assert rows[-1]["age_s"] > 30 * 86_400
    assert {row["shape"] for row in rows} == {"f32[4,8], f32[8,2] -> f32[4,2]"}
    table = call_cli("cache", "ls", cache).stdout
    assert "MODULE_1+d41d8cd9" in table
    assert "40 days" in table


def test_sizes_are_summed_by_compiler_and_state(call_cli, cache):
    document = strict_json(call_cli("cache", "du", cache, "--json").stdout)
    assert document["size_bytes"] == sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    assert document["size_bytes"] == sum(group["size_bytes"] for group in document["groups"])
    assert [(group["compiler"], group["status"]) for group in document["groups"]] == [
        (writer.COMPILER, "complete"),
        (writer.COMPILER, "failed"),
        (OLD, "complete"),
    ]
    assert call_cli("cache", "du", cache).stdout.splitlines()[-1].startswith("all ")


def test_nothing_is_deleted_without_yes(call_cli, cache):
    before = everything(cache)
    answer = call_cli("cache", "prune", cache, "--older-than", "30d")
    assert answer.returncode == 0
    assert everything(cache) == before
    assert "would be deleted" in answer.stdout
    assert "add --yes" in answer.stdout


def test_a_preview_shows_whole_keys_and_what_stays_in_any_case(call_cli, cache):
    user = cache / "matmul_1x1x1"
    user.mkdir()
    (user / "graph.neff").write_bytes(bytes(100_000))
    answer = call_cli("cache", "prune", cache, "--failed", "--max-size", "1G")
    assert f"{writer.COMPILER}/MODULE_2+d41d8cd9" in "".join(answer.stdout.split())
    assert "stays in any case: 1 entry, 97.7 KiB, not for sure a cache's alone" in answer.stdout
    assert ": 1 of 3 entries, " in answer.stdout
    document = strict_json(call_cli("cache", "prune", cache, "--max-size", "1G", "--json").stdout)
    assert document["others"] == {"entries": 1, "size_bytes": 100_000}
    assert "note: 1 entry not for sure a cache's alone" in call_cli("cache", "ls", cache).stderr


def test_names_with_newlines_are_told_on_one_line(call_cli, cache):
    entry(cache / "a\nb", "4", data=None, done=False, log="error")
    shown = call_cli("cache", "prune", cache, "--failed")
    assert "a?b/" in "".join(shown.stdout.split())
    done = call_cli("cache", "prune", cache, "--failed", "--yes", "--json")
    assert f"a\nb/{writer.COMPILER}/MODULE_4+d41d8cd9" in [row["key"] for row in strict_json(done.stdout)["entries"]]
    assert everything(cache / "a\nb") == set()


def test_with_yes_what_was_shown_is_deleted_and_nothing_else(call_cli, cache):
    (cache / "notes.txt").write_text("mine")
    words = ("cache", "prune", cache, "--failed", "--compiler", writer.COMPILER, "--json")
    shown = strict_json(call_cli(*words).stdout)
    done = strict_json(call_cli(*words, "--yes").stdout)
    assert [row["key"] for row in shown["entries"]] == [row["key"] for row in done["entries"]]
    assert (shown["is_deleted"], done["is_deleted"]) == (False, True)
    assert done["freed_bytes"] == shown["size_bytes"]
    assert {path for path in everything(cache) if "/" not in path} == {OLD, "notes.txt"}
    assert everything(cache / OLD)


def test_an_age_beside_a_state_does_not_delete_what_is_complete(call_cli, cache):
    before = everything(cache)
    answer = call_cli("cache", "prune", cache, "--failed", "--older-than", "30d", "--yes")
    assert (answer.returncode, everything(cache)) == (0, before)
    told = call_cli("cache", "prune", "--help").stdout
    assert "--older-than narrows them" in " ".join(told.split())


def test_in_the_current_folder_the_preview_is_shown_and_nothing_can_be_deleted(
    call_cli, assert_one_line_error, cache, monkeypatch
):
    monkeypatch.chdir(cache)
    before = everything(cache)
    answer = call_cli("cache", "prune", ".", "--failed")
    assert answer.returncode == 0
    assert "from a folder outside of it add --yes" in answer.stdout
    assert_one_line_error(call_cli("cache", "prune", ".", "--failed", "--yes"), 2, "holds the current folder")
    assert everything(cache) == before


def test_an_unreadable_neff_is_listed_as_one(call_cli, cache):
    (next(cache.glob("*/MODULE_3+*")) / "model.neff").write_bytes(bytes(4))
    for command, rows in (("ls", "entries"), ("du", "groups")):
        document = strict_json(call_cli("cache", command, cache, "--json").stdout)
        assert {row["status"] for row in document[rows]} == {"complete", "failed", "unreadable"}
    assert "NEFF cannot be read" in " ".join(call_cli("cache", "prune", "--help").stdout.split())


def test_what_cannot_be_deleted_is_one_line_and_exit_code_1(call_cli, cache):
    import fcntl

    folder = next(cache.glob("*/MODULE_2+*"))
    lock = folder / "model.lock"
    lock.write_text("")
    writer.aged(lock, 9_000)
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        answer = call_cli("cache", "prune", cache, "--failed", "--yes")
    assert answer.returncode == 1
    (line,) = answer.stderr.splitlines()
    assert line.endswith("MODULE_2+d41d8cd9 cannot be deleted: something holds its lock")
    assert folder.is_dir()


def test_the_default_folder_is_named_with_what_named_it(run_cli, cache):
    answer = run_cli(
        "cache", "du", env={"NEURON_CC_FLAGS": f"--cache_dir={cache}", "NEURON_COMPILE_CACHE_URL": "/nowhere"}
    )
    assert answer.returncode == 0
    assert answer.stderr == f"cache: {cache} (--cache_dir of NEURON_CC_FLAGS)\n"


def test_a_default_that_is_elsewhere_is_refused(run_cli, assert_one_line_error):
    environment = {"NEURON_CC_FLAGS": "", "NEURON_COMPILE_CACHE_URL": "s3://bucket/cache"}
    assert_one_line_error(
        run_cli("cache", "ls", env=environment), 2, "NEURON_COMPILE_CACHE_URL is s3://bucket/cache", "aws s3 sync"
    )


def test_jax_s_cache_is_listed_by_the_names_of_its_programs(call_cli, tmp_path):
    jax_entry(tmp_path / "jax")
    (row,) = strict_json(call_cli("cache", "ls", tmp_path / "jax", "--json").stdout)["entries"]
    assert (row["shape"], row["layout"], row["status"]) == ("jit_f", "jax", "complete")
    assert "jit_f-000000000000" in call_cli("cache", "ls", tmp_path / "jax").stdout


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("ls", "nothing"), 3, "nothing there"),
        (("ls", "mine"), 3, "no entry of a Neuron, vLLM or JAX cache"),
        (("du", "mine/file"), 3, "expected the folder of a compile cache, found a file"),
        (("prune", "cache"), 2, "say which entries: --failed"),
        (("prune", "mine", "--failed"), 3, "no entry of a Neuron, vLLM or JAX cache"),
        (("prune", "/", "--failed", "--yes"), 2, "nothing is deleted in a home"),
        (("prune", "..", "--failed", "--yes"), 2, "holds the current folder"),
        (("prune", "cache", "--older-than", "soon"), 2, "write it as 30d"),
        (("prune", "cache", "--max-size", "big"), 2, "write it as 10G"),
        (("prune", "cache", "--compiler", "9.9"), 2, "no entry is of compiler '9.9'"),
        (("prune", "cache", "--compiler", "a", "--keep-compiler", "b"), 2, "exclude each other"),
        (("prune", "s3://bucket/cache", "--failed"), 2, "only folders of this machine"),
    ],
)
def test_wrong_use_of_folders_is_one_line_and_deletes_nothing(
    call_cli, assert_one_line_error, tmp_path, cache, words, code, text
):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    before = everything(tmp_path)
    assert_one_line_error(call_cli("cache", *words), code, text)
    assert everything(tmp_path) == before


def test_an_empty_folder_is_an_empty_cache(call_cli, tmp_path):
    (tmp_path / "empty").mkdir()
    assert strict_json(call_cli("cache", "ls", tmp_path / "empty", "--json").stdout)["entries"] == []
    assert call_cli("cache", "prune", tmp_path / "empty", "--failed", "--yes").returncode == 0
