"""Recompilation as logs of the Neuron wrapper show it: keys in sequence, hits, failures, seconds."""

import pytest

from npuscope.analysis.recompile_files import Files, diagnose_files, kind_of
from npuscope.analysis.recompile_log import examine_log
from npuscope.formats.neuron_log import read_neuron_log
from tests.writers.compile_cache import COMPILER

ROOT = "/var/tmp/neuron-compile-cache"


def hit(module, second=0):
    return f"2026-01-26 10:00:{second:02}.000000: 7 INFO ||NEURON_CC_WRAPPER||: Using a cached neff at {ROOT}/{COMPILER}/{module}/model.neff"


def compiled(module, second=0, seconds=4, compiler=COMPILER, options="--target=trn2"):
    folder = f"{ROOT}/{compiler}/{module}"
    return "\n".join(
        [
            f"2026-01-26 10:00:{second:02}.000000: 7 INFO ||NEURON_CC_WRAPPER||: Call compiler with cmd: neuronx-cc compile"
            f" --framework=XLA {folder}/model.hlo_module.pb --output {folder}/model.neff {options}",
            "Compiler status PASS",
            f"2026-01-26 10:00:{second + seconds:02}.000000: 7 INFO ||NEURON_CC_WRAPPER||: next",
        ]
    )


def cached_failure(module):
    return f"INFO ||NEURON_CC_WRAPPER||: Got a cached failed neff at {ROOT}/{COMPILER}/{module}/model.neff. Will skip compilation, please set --retry_failed_compilation"


def examined(tmp_path, *lines):
    path = tmp_path / "train.log"
    path.write_text("\n".join(lines) + "\n")
    assert kind_of(path) == "log"
    return examine_log(read_neuron_log(path)), diagnose_files(Files(logs=(path,)))


def causes(report):
    return {one.cause: one.count for one in report.findings}


def test_a_program_that_is_found_again_is_compiled_once(tmp_path):
    report, diagnosis = examined(tmp_path, compiled("MODULE_1+aa"), hit("MODULE_1+aa", 9), hit("MODULE_1+aa", 10))
    assert (report.calls, report.compiles, report.cache_hits, report.recompiles) == (3, 1, 2, 0)
    assert (diagnosis.cause, diagnosis.calls, diagnosis.compiles, diagnosis.cache_hits) == ("none", 3, 1, 2)
    assert report.sequence == ("compiled MODULE_1+aa", "hit MODULE_1+aa", "hit MODULE_1+aa")


def test_the_same_key_compiled_again_is_not_kept_and_costs_what_the_log_says(tmp_path):
    report, diagnosis = examined(tmp_path, *(compiled("MODULE_1+aa", second) for second in (0, 10, 20)))
    assert causes(report) == {"cache-not-kept": 2}
    assert report.findings[0].cost_ms == 8_000
    assert (diagnosis.cause, diagnosis.recompiles, diagnosis.recompile_ms) == ("cache-not-kept", 2, 8_000)
    assert "line 1 and again in line 4" in report.findings[0].evidence[0]


def test_one_graph_under_several_flags_or_compilers_is_told(tmp_path):
    other = "neuronxcc-2.21.0.0+ffff"
    report, _ = examined(
        tmp_path, compiled("MODULE_1+aa"), compiled("MODULE_1+bb", 10), compiled("MODULE_1+aa", 20, compiler=other)
    )
    assert causes(report) == {"flags-differ": 1, "compiler-version-differs": 1}


def test_a_program_per_iteration_is_not_taken_for_healthy(tmp_path):
    """Each iteration compiles a program that is never asked for again, while another kernel is found."""
    lines = [line for n in range(4) for line in (compiled(f"MODULE_{n}+aa", 10 * n), hit("MODULE_99+aa", 10 * n + 5))]
    report, diagnosis = examined(tmp_path, *lines)
    assert (report.calls, report.compiles, report.cache_hits, report.recompiles) == (8, 4, 4, None)
    assert (diagnosis.cause, diagnosis.recompiles) == ("unexplained", None)
    assert "nki_jit()" in diagnosis.fix
    assert diagnosis.findings[0].cost_ms == 16_000


@pytest.mark.parametrize(
    ("programs", "asked_again", "recompiles"),
    [
        (6, 0, None),
        (6, 1, None),
        (3, 1, None),
        (2, 0, None),
        (2, 1, None),
        (12, 10, None),
        (1, 0, 0),
        (2, 2, 0),
        (6, 6, 0),
        (12, 11, 0),
    ],
)
def test_a_log_alone_is_healthy_only_where_nearly_every_program_is_asked_for_again(
    tmp_path, programs, asked_again, recompiles
):
    """torch_xla's own cache is silent: that a program is not asked for again proves nothing, nor does one that is."""
    lines = [compiled(f"MODULE_{n}+aa", 4 * n) for n in range(programs)]
    lines += [hit(f"MODULE_{n}+aa", 55) for n in range(asked_again)]
    report, diagnosis = examined(tmp_path, *lines)
    assert (report.recompiles, diagnosis.recompiles) == (recompiles, recompiles)
    assert diagnosis.cause == ("none" if recompiles == 0 else "unexplained")


def test_a_hit_before_a_program_was_compiled_is_not_one_of_it(tmp_path):
    """Another process had compiled it, and its cache was emptied then."""
    report, _ = examined(
        tmp_path, hit("MODULE_1+aa"), hit("MODULE_2+aa"), compiled("MODULE_1+aa", 5), compiled("MODULE_2+aa", 10)
    )
    assert report.recompiles is None


def test_compilations_that_no_line_names_are_not_judged(tmp_path):
    report, diagnosis = examined(tmp_path, "INFO ||NEURON_CC_WRAPPER||: begin", *["Compiler status PASS"] * 3)
    assert (report.compiles, report.recompiles, diagnosis.cause) == (3, None, "unexplained")


def test_failures_that_the_cache_kept_are_told_with_the_option_to_retry(tmp_path):
    report, diagnosis = examined(tmp_path, cached_failure("MODULE_1+aa"), cached_failure("MODULE_1+aa"))
    assert causes(report) == {"failed-compile-cached": 2}
    assert (report.calls, report.compiles, diagnosis.cause) == (2, 0, "failed-compile-cached")
    assert "--retry_failed_compilation" in diagnosis.fix


def test_several_cache_folders_are_not_one(tmp_path):
    report, _ = examined(
        tmp_path,
        *(f"INFO ||NEURON_CC_WRAPPER||: Compile cache path: /tmp/rank{n}" for n in (0, 1, 1)),
        hit("MODULE_1+aa"),
    )
    assert causes(report) == {"cache-not-shared": 1}
    assert "/tmp/rank0, /tmp/rank1" in report.findings[0].evidence[0]


def test_a_cache_that_is_switched_off_is_told(tmp_path):
    report, _ = examined(
        tmp_path, compiled("MODULE_1+aa", options="--no_cache"), compiled("MODULE_1+aa", 10, options="--no_cache")
    )
    assert causes(report) == {"cache-not-kept": 1, "cache-off": 2}
