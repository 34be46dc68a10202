"""Log lines of several versions of the compiler's cache wrapper: events, counts, times."""

import pytest

from npuscope.errors import FormatError
from npuscope.formats.neuron_log import LINE_LIMIT, log_time, looks_like_neuron_log, read_neuron_log
from npuscope.formats.neuron_log_inspection import inspect_neuron_log

CACHE = "/var/tmp/neuron-compile-cache/neuronxcc-2.8.0.25+a3ad0f342"
NEFF = f"{CACHE}/MODULE_198775565831884870+d41d8cd9/model.neff"


def log(tmp_path, *lines):
    path = tmp_path / "train.log"
    path.write_text("\n".join(lines) + "\n")
    return read_neuron_log(path)


@pytest.mark.parametrize(
    ("line", "kind", "path"),
    [
        (
            f"2023-08-25 21:52:23.000453: INFO ||NCC_WRAPPER||: Using a cached neff at {NEFF}. Exiting with a successfully compiled graph.",
            "hit",
            NEFF,
        ),
        (
            f"2025-07-26 00:30:52.000930:  339608  INFO ||NEURON_CC_WRAPPER||: Using a cached neff at {NEFF}",
            "hit",
            NEFF,
        ),
        (f"2026-04-13 01:46:33.000003:  8376 [INFO]: Using a cached neff at {NEFF}", "hit", NEFF),
        (
            f"  1%|#   | 1/290 [00:04<22:02]2023-07-07 13:56:06.000307: INFO ||NCC_WRAPPER||: Using a cached neff at {NEFF}. Exiting",
            "hit",
            NEFF,
        ),
        (
            f"INFO ||NCC_WRAPPER||: Got a cached failed neff at {NEFF}. Will skip compilation, please set --retry_failed_compilation",
            "cached-failure",
            NEFF,
        ),
        (f"[ERROR]: Got a cached failed neff at {NEFF}.", "cached-failure", NEFF),
        (
            f"2022-04-12 16:15:00.000947: INFO ||NCC_WRAPPER||: No candidate found under {CACHE}/MODULE_18200615679846498221.",
            "miss",
            f"{CACHE}/MODULE_18200615679846498221",
        ),
        (
            "neuronxcc-2.15.128.0+56dc5a86/MODULE_98ba4c9111d5882d2331+39f12043/model.done not found in aws-neuron/optimum-neuron-cache: the corresponding graph will be recompiled. This may",
            "miss",
            "neuronxcc-2.15.128.0+56dc5a86/MODULE_98ba4c9111d5882d2331+39f12043/model.done",
        ),
        (
            "2023-08-25 21:51:36.000433: INFO ||NCC_WRAPPER||: Compile cache path: /var/tmp/neuron-compile-cache",
            "cache-path",
            "/var/tmp/neuron-compile-cache",
        ),
        (
            f"INFO ||NEURON_CC_WRAPPER||: Extracting graphs ({CACHE}/MODULE_9219523464496887986+abb26765/model.hlo.pb) for ahead-of-time parallel compilation.",
            "extract",
            f"{CACHE}/MODULE_9219523464496887986+abb26765/model.hlo.pb",
        ),
        ("Compiler status PASS", "pass", ""),
        ("RuntimeError: neuronx-cc compilation failed with 70. Check compiler logs.", "fail", ""),
        ("2026-01-30T01:55:15Z INFO 4296 [root]: Subcommand returned with exitcode=70", "fail", ""),
    ],
)
def test_a_documented_line_is_one_event_of_its_kind(tmp_path, line, kind, path):
    found = log(tmp_path, "something else", line)
    assert [(e.kind, e.line, e.path) for e in found.events] == [(kind, 2, path)]
    assert found.counts[kind] == 1
    assert sum(found.counts.values()) == 1


@pytest.mark.parametrize(
    "line",
    [
        "Current remaining items are 17, locked are 2, failed are 0, done are 0, total is 19",
        "my compilation of the cached results failed",
        "2026-01-30T01:55:15Z INFO 4296 [root]: Subcommand exitcode",
        "Compiler status unknown",
        "",
    ],
)
def test_another_line_is_no_event(tmp_path, line):
    assert log(tmp_path, line).events == ()


def test_the_wrapper_prints_milliseconds_with_six_digits_and_the_compiler_microseconds():
    wrapper = log_time("2023-08-25 21:51:36.000433: INFO ||NCC_WRAPPER||: Compile cache path: /x")
    compiler = log_time("2026-01-30 01:55:08.000433: I hilo/hlo2penguin/FrontendDriver.cc:1096] [WARN] Found")
    assert wrapper % 1 == pytest.approx(0.433)
    assert compiler % 1 == pytest.approx(0.000433, abs=1e-6)
    assert log_time("no time") is None
    assert log_time("2023-13-45 21:51:36") is None


def call(time, module):
    return f"2024-04-12 07:13:{time}:  2713  INFO ||NEURON_CC_WRAPPER||: Call compiler with cmd: neuronx-cc compile --target=trn1 /tmp/model.{module}.hlo_module.pb --output /tmp/model.{module}.neff"


def test_a_pass_that_says_its_module_again_is_counted_once_and_timed(tmp_path):
    found = log(
        tmp_path,
        call("06.000297", "MODULE_1+aa"),
        ".",
        "Compiler status PASS",
        "2024-04-12 07:13:08.000797: 837617 [INFO]: Compilation Successfully Completed for model.MODULE_1+aa.hlo_module.pb",
    )
    assert found.counts["pass"] == 1
    assert [(c.module, c.result, c.at_most) for c in found.compilations] == [("MODULE_1+aa", "pass", True)]
    assert found.compilations[0].seconds == pytest.approx(2.5)
    assert "compile --target=trn1" in found.compilations[0].command


def test_an_end_without_a_time_bounds_the_compilation_by_the_next_line_that_has_one(tmp_path):
    found = log(
        tmp_path, call("06.000000", "MODULE_1"), "Compiler status PASS", "loss 0.19", call("09.000000", "MODULE_2")
    )
    assert [(c.result, c.seconds, c.at_most) for c in found.compilations] == [
        ("pass", 3.0, True),
        ("unknown", None, False),
    ]
    assert any("1 of 2 compilations have no end" in note for note in found.notes)


def test_a_failure_told_in_two_lines_is_counted_once(tmp_path):
    module = "MODULE_77f3c929dd68c1f98ca9+39f12043"
    found = log(
        tmp_path,
        call("06.000000", module),
        f"2024-04-12 07:13:38.000037:  4812  ERROR ||NEURON_CC_WRAPPER||: Failed compilation with ['neuronx-cc', 'compile', '/tmp/model.{module}.hlo_module.pb']: error while loading shared libraries",
        f"2024-04-12 07:13:38.000037:  4812  ERROR ||NEURON_CC_WRAPPER||: Compilation failed for /tmp/model.{module}.hlo_module.pb after 0 retries.",
    )
    assert found.counts["fail"] == 1
    assert [(c.result, c.seconds) for c in found.compilations] == [("fail", pytest.approx(32.037))]
    assert found.levels == {"ERROR": 2}


def test_a_cached_failure_that_repeats_its_error_is_no_new_failure(tmp_path):
    found = log(
        tmp_path,
        f"2024-10-31 20:42:06.000071:  2107025  ERROR ||NEURON_CC_WRAPPER||: Got a cached failed neff at {NEFF}. Will skip compilation, please set --retry_failed_compilation for recompilation: ",
        " Failed compilation with ['neuronx-cc', '/tmp/model.MODULE_198775565831884870+d41d8cd9.hlo_module.pb']: BIR verification failed",
    )
    assert (found.counts["cached-failure"], found.counts["fail"]) == (1, 0)


def test_ends_of_parallel_compilations_are_assigned_only_by_name(tmp_path):
    found = log(
        tmp_path,
        call("01.000000", "MODULE_1"),
        call("02.000000", "MODULE_2"),
        "Compiler status PASS",
        "Compiler status PASS",
        "2024-04-12 07:13:05.000000: 1 [INFO]: Compilation Successfully Completed for model.MODULE_2.hlo_module.pb",
    )
    assert found.counts["pass"] == 2
    assert [(c.module, c.result) for c in found.compilations] == [("MODULE_1", "unknown"), ("MODULE_2", "pass")]
    assert any("2 ends name no module" in note for note in found.notes)


def test_tiles_and_figures_of_the_compilers_report_are_kept(tmp_path):
    prefix = "2026-01-30T01:55:08Z INFO 4300 [sg0000/Tensorizer/TilingBottleneck]: "
    found = log(
        tmp_path,
        "2 MACROS WITH LARGEST INSTRUCTION COUNTS:",
        prefix + "7: matmul_1x1x1",
        "2 MACROS WITH LARGEST INSTRUCTION COUNTS:",
        prefix + "28: matmul_128x128x512",
        prefix + "2: dma128x2048",
        prefix + "3: dma128x2048",
        prefix + "  pf_transpose_insts_for_io:  1024",
        "2026-01-30T01:55:08Z INFO 1 [DMAOptimizationBase]: DMA optimization Out bytes loaded or saved 1000, 30.0% input load, 20.0% output write, 50.0% spill/reload [sg0000]",
    )
    assert found.tiles == {"matmul_128x128x512": 28, "dma128x2048": 5}
    assert found.figures["pf_transpose_insts_for_io"] == 1024
    assert found.figures["dma_bytes"] == 1000
    assert found.figures["dma_spill_reload_share"] == 0.5


def test_a_line_beyond_the_limit_is_cut_and_the_next_one_is_read(tmp_path):
    path = tmp_path / "x.log"
    path.write_bytes(b"x" * (3 * LINE_LIMIT) + b" Compiler status PASS\nCompiler status PASS\n")
    found = read_neuron_log(path)
    assert (found.lines, found.counts["pass"]) == (2, 1)
    assert any("longer than" in note for note in found.notes)


def test_an_inspection_lists_compilations_events_and_warnings(tmp_path):
    path = tmp_path / "x.log"
    path.write_text(
        "\n".join([call("06.000000", "MODULE_1"), "Compiler status PASS", f"[INFO]: Using a cached neff at {NEFF}"])
    )
    inspection = inspect_neuron_log(path)
    assert inspection.kind == "neuron-log"
    assert inspection.facts["hit_lines"] == 1
    assert inspection.tables["events"][0]["event"] == "hit"
    assert inspection.tables["modules"][0] == {"module": "MODULE_1", "hits": 0, "compiled": 1, "failed": 0}


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(FormatError, match="found a folder"):
        read_neuron_log(tmp_path)


def test_a_log_is_told_from_other_text():
    assert looks_like_neuron_log(b"x\n.\nCompiler status PASS\n")
    assert looks_like_neuron_log(b"2026-01-30T01:55:07Z INFO 4296 [root]: /usr/bin/neuronx-cc compile /tmp/model")
    assert not looks_like_neuron_log(b"M,K,N,latency_ms\n1,2,3,4\n")
