"""The emulated pyxrt: what it takes, what it refuses, whose memory is whose, and what its clock and counters say."""

import gc
from dataclasses import replace
from datetime import timedelta
from time import perf_counter_ns

import numpy as np
import pytest

from npuscope.backends.xdna.emulated import EmulatedRuntime, build_emulated
from npuscope.backends.xdna.emulated.binding import timed
from npuscope.backends.xdna.emulated.build import dispatched
from npuscope.formats.npu_instructions import read_instructions
from npuscope.formats.xclbin import read_xclbin
from npuscope.hardware.model import load_xdna
from npuscope.tiling.xdna_design import XdnaDesign
from npuscope.workloads.dtypes import numpy_dtype
from tests.writers import xclbin as writer

DESIGN = XdnaDesign(8, 16, 8, 8, 8, 8, dtype="int8", out_dtype="int32")
ARRAY = load_xdna("npu1")
COMMAND_NS = 100_000
MS = 1_000_000


def exact(a, b, design):
    return np.matmul(a.astype(np.int64), b.astype(np.int64)).astype(numpy_dtype(design.out_dtype))


class Rig:
    """One kernel on one emulated device, with buffers; a run has all its arguments."""

    def __init__(self, folder, design=DESIGN, array="npu1", **options):
        self.folder, self.design = folder, design
        self.rt = EmulatedRuntime(array, multiply=options.pop("multiply", exact), **options)
        self.to = self.rt.xclBOSyncDirection.XCL_BO_SYNC_BO_TO_DEVICE
        self.back = self.rt.xclBOSyncDirection.XCL_BO_SYNC_BO_FROM_DEVICE
        self.device = self.rt.device(0)
        self.built = build_emulated(design, array, folder, "kernel")
        self.context = self.new_context()
        self.kernel = self.rt.kernel(self.context, "MLIR_AIE")
        self.words = read_instructions(self.built.instructions).words
        self.instructions = self.instruction_buffer(self.words)
        self.a, self.b, self.c = (self.buffer(3 + index) for index in range(3))

    def new_context(self):
        xclbin = self.rt.xclbin(str(self.built.xclbin))
        self.device.register_xclbin(xclbin)
        return self.rt.hw_context(self.device, xclbin.get_uuid())

    def instruction_buffer(self, words):
        buffer = self.rt.bo(self.device, words.nbytes, self.rt.bo.cacheable, self.kernel.group_id(1))
        buffer.write(words, 0)
        buffer.sync(self.to)
        return buffer

    def buffer(self, argument, size=None):
        sizes = {3: self.design.a_bytes, 4: self.design.b_bytes, 5: self.design.c_bytes}
        size = sizes[argument] if size is None else size
        return self.rt.bo(self.device, size, self.rt.bo.host_only, self.kernel.group_id(argument))

    def run(self, **changes):
        values = {
            "opcode": 3,
            "instructions": self.instructions,
            "count": self.words.nbytes,
            "a": self.a,
            "b": self.b,
            "c": self.c,
        } | changes
        run = self.rt.run(self.kernel)
        for index, value in enumerate(values.values()):
            if value is not None:
                run.set_arg(index, value)
        return run

    def fill(self, a, b):
        for buffer, values in ((self.a, a), (self.b, b)):
            buffer.write(np.ascontiguousarray(values), 0)
            buffer.sync(self.to)

    def result(self):
        self.c.sync(self.back)
        return np.frombuffer(self.c.map(), numpy_dtype(self.design.out_dtype)).reshape(self.design.M, self.design.N)

    def ends_as(self, run):
        run.start()
        return run.wait().name.removeprefix("ERT_CMD_STATE_")


@pytest.fixture
def rig(tmp_path):
    return Rig(tmp_path)


@pytest.fixture
def make(tmp_path):
    return lambda **options: Rig(tmp_path, **options)


def operands(design=DESIGN, seed=0):
    rng = np.random.default_rng(seed)
    shape_b = (design.N, design.K) if design.b_column_major else (design.K, design.N)
    return (
        rng.integers(-100, 100, (design.M, design.K)).astype(np.int8),
        rng.integers(-100, 100, shape_b).astype(np.int8),
    )


class TestBuild:
    def test_kernels_that_differ_in_the_problem_alone_share_an_xclbin(self, tmp_path):
        one = build_emulated(DESIGN, "npu1", tmp_path, "one")
        two = build_emulated(replace(DESIGN, M=64, K=24, N=16, batch=3), "npu1", tmp_path, "two")
        assert one.xclbin.read_bytes() == two.xclbin.read_bytes()
        assert dispatched(read_instructions(two.instructions).words) == {"M": 64, "K": 24, "N": 16, "batch": 3}

    @pytest.mark.parametrize("change", [{"tile_m": 4}, {"columns": 2}, {"rounding": "even"}, {"out_dtype": "int16"}])
    def test_another_program_for_the_cores_is_another_xclbin(self, tmp_path, change):
        one = read_xclbin(build_emulated(DESIGN, "npu1", tmp_path, "one").xclbin)
        assert read_xclbin(build_emulated(replace(DESIGN, **change), "npu1", tmp_path, "two").xclbin).uuid != one.uuid

    @pytest.mark.parametrize(("array", "columns"), [("npu1", 5), ("npu2", 8)])
    def test_instructions_are_for_their_array(self, tmp_path, array, columns):
        read = read_instructions(build_emulated(DESIGN, array, tmp_path, "k").instructions)
        assert (read.array, read.rows, read.columns, read.memory_tile_rows) == (array, 6, columns, 1)


class TestResults:
    def test_a_kernel_computes_what_its_design_says(self, rig):
        a, b = operands()
        rig.fill(a, b)
        assert rig.ends_as(rig.run()) == "COMPLETED"
        assert np.array_equal(rig.result(), a.astype(int) @ b.astype(int))

    def test_b_by_columns_is_turned(self, make):
        design = replace(DESIGN, b_column_major=True, N=24)
        rig = make(design=design)
        a, b = operands(design)
        rig.fill(a, b)
        rig.ends_as(rig.run())
        assert np.array_equal(rig.result(), a.astype(int) @ b.T.astype(int))

    def test_a_batch_is_multiplied_one_by_one(self, make):
        rig = make(design=replace(DESIGN, batch=3))
        rng = np.random.default_rng(0)
        a, b = rng.integers(-9, 9, (3, 8, 16)).astype(np.int8), rng.integers(-9, 9, (3, 16, 8)).astype(np.int8)
        rig.fill(a, b)
        rig.ends_as(rig.run())
        rig.c.sync(rig.back)
        result = np.frombuffer(rig.c.map(), np.int32).reshape(3, 8, 8)
        assert np.array_equal(result, a.astype(int) @ b.astype(int))

    @pytest.mark.parametrize(("rounding", "expected"), [("floor", 0xBF81), ("even", 0xBF80)])
    def test_unless_told_otherwise_it_computes_as_the_cores_do(self, tmp_path, rounding, expected):
        rig = Rig(tmp_path, design=XdnaDesign(4, 8, 4, 4, 8, 4, rounding=rounding), multiply=None)
        three_ones = np.zeros((4, 8), np.uint16)
        three_ones[:, :3] = 0x3F80
        third = np.full((8, 4), 0xBEAB, np.uint16)  # -0.333984375; three of them lie a quarter of a step below -1
        rig.fill(three_ones, third)
        rig.ends_as(rig.run())
        rig.c.sync(rig.back)
        assert set(np.frombuffer(rig.c.map(), np.uint16).tolist()) == {expected}

    def test_a_result_of_another_size_is_the_emulators_own_error(self, make):
        rig = make(multiply=lambda a, b, design: exact(a, b, design).astype(np.int64))
        with pytest.raises(ValueError, match="gave 512 bytes, not 256"):
            rig.run().start()

    def test_a_call_of_the_kernel_sets_all_and_starts(self, rig):
        rig.fill(*operands())
        run = rig.kernel(3, rig.instructions, rig.words.nbytes, rig.a, rig.b, rig.c)
        assert run.wait() is rig.rt.ert_cmd_state.ERT_CMD_STATE_COMPLETED
        with pytest.raises(IndexError):
            rig.kernel(3, rig.instructions, rig.words.nbytes, rig.a, rig.b, rig.c, rig.c)

    def test_new_instructions_in_an_old_buffer_are_what_runs(self, rig):
        a, b = operands()
        rig.fill(a, b)
        rig.ends_as(rig.run())
        halved = build_emulated(replace(DESIGN, K=8), "npu1", rig.folder, "halved")
        rig.instructions.write(read_instructions(halved.instructions).words, 0)
        assert rig.ends_as(rig.run()) == "COMPLETED"
        assert np.array_equal(rig.result(), a.astype(int) @ b.astype(int)), "not handed to the device yet"
        rig.instructions.sync(rig.to)
        rig.ends_as(rig.run())
        assert np.array_equal(rig.result(), a.reshape(-1)[:64].reshape(8, 8).astype(int) @ b[:8].astype(int))

    def test_instructions_mean_what_the_context_that_runs_them_was_built_for(self, rig):
        other = build_emulated(replace(DESIGN, out_dtype="int8"), "npu1", rig.folder, "other")
        rig.fill(*operands())
        rig.ends_as(rig.run())
        expected = rig.result().astype(np.int8)
        rig.kernel = rig.rt.kernel(rig.rt.hw_context(rig.device, str(other.xclbin)), "MLIR_AIE")
        rig.ends_as(rig.run())
        rig.c.sync(rig.back)
        assert np.array_equal(np.frombuffer(rig.c.map(), np.int8)[:64].reshape(8, 8), expected)


class TestTwoMemories:
    def test_what_was_never_handed_over_is_no_zero(self, make):
        seen = []
        rig = make(multiply=lambda a, b, design: seen.append(a.copy()) or exact(a, b, design))
        rig.a.write(operands()[0], 0)
        rig.ends_as(rig.run())
        assert (seen[0] == -1).all()  # 0xFF: NaN in bfloat16 and float32

    def test_fresh_memory_is_not_a_number_in_the_float_types(self, rig):
        rig.a.sync(rig.back)
        data = np.frombuffer(rig.a.map(), np.uint8)
        assert np.isnan(data.view(np.float32)).all()
        assert np.isnan(data.view(numpy_dtype("bfloat16")).astype(np.float32)).all()

    def test_a_forgotten_sync_to_the_device_shows_old_operands(self, rig):
        a, b = operands()
        rig.fill(a, b)
        rig.a.write(np.zeros_like(a), 0)
        rig.ends_as(rig.run())
        assert np.array_equal(rig.result(), a.astype(int) @ b.astype(int))

    def test_a_forgotten_sync_from_the_device_shows_the_old_result(self, rig):
        rig.fill(*operands())
        rig.ends_as(rig.run())
        assert not any(rig.c.map())

    def test_a_result_is_not_there_before_somebody_waits(self, rig):
        rig.fill(*operands())
        run = rig.run()
        run.start()
        assert (rig.result() == -1).all()
        run.wait()
        assert not (rig.result() == -1).all()

    def test_only_the_part_that_is_synced_is_copied(self, rig):
        rig.a.write(bytes(128), 0)
        rig.a.sync(rig.to, 16, 32)
        rig.a.sync(rig.back)
        assert [index for index, byte in enumerate(rig.a.map()) if byte == 0] == list(range(32, 48))

    def test_a_sub_buffer_shares_both_memories(self, rig):
        part = rig.rt.bo(rig.a, 16, 32)
        part.write(bytes(range(16)), 0)
        part.sync(rig.to)
        rig.a.sync(rig.back)
        assert bytes(rig.a.map()[32:48]) == bytes(range(16))
        assert part.address() == rig.a.address() + 32
        assert part.size() == 16

    def test_operands_cannot_change_under_a_running_command(self, rig):
        run = rig.run()
        run.start()
        for buffer in (rig.a, rig.rt.bo(rig.b, 16, 0), rig.instructions):
            with pytest.raises(RuntimeError, match="has not been waited for"):
                buffer.sync(rig.to)
        run.wait()
        rig.a.sync(rig.to)


class TestBuffers:
    @pytest.mark.parametrize(
        ("call", "error"),
        [
            (lambda bo, rig: bo.write(bytes(129), 0), RuntimeError),
            (lambda bo, rig: bo.write(bytes(1), 128), RuntimeError),
            (lambda bo, rig: bo.write(bytes(1), -1), TypeError),
            (lambda bo, rig: bo.write(bytes(1)), TypeError),
            (lambda bo, rig: bo.write([1], 0), TypeError),
            (lambda bo, rig: bo.read(129, 0), RuntimeError),
            (lambda bo, rig: bo.read(1, 128), RuntimeError),
            (lambda bo, rig: bo.read(1), TypeError),
            (lambda bo, rig: bo.read(-1, 0), TypeError),
            (lambda bo, rig: bo.sync(rig.to, 129, 0), RuntimeError),
            (lambda bo, rig: bo.sync(rig.to, 1, 128), RuntimeError),
            (lambda bo, rig: bo.sync(rig.to, 1 << 63, 1 << 63), RuntimeError),
            (lambda bo, rig: bo.sync(rig.to, 1, -1), TypeError),
            (lambda bo, rig: bo.sync(rig.to, 1), TypeError),
            (lambda bo, rig: bo.sync(0), TypeError),
            (lambda bo, rig: bo.sync(rig.rt.xclBOSyncDirection.XCL_BO_SYNC_BO_GMIO_TO_AIE), RuntimeError),
            (lambda bo, rig: rig.rt.bo(bo, 0, 0), RuntimeError),
            (lambda bo, rig: rig.rt.bo(bo, 129, 0), RuntimeError),
            (lambda bo, rig: rig.rt.bo(bo, 1, 128), RuntimeError),
            (lambda bo, rig: rig.rt.bo(rig.rt.bo(bo, 64, 0), 32, 0), RuntimeError),
            (lambda bo, rig: rig.rt.bo(bo, 8, rig.rt.bo.host_only, 1), TypeError),
            (lambda bo, rig: rig.rt.bo(rig.device, 0, rig.rt.bo.host_only, 1), RuntimeError),
            (lambda bo, rig: rig.rt.bo(rig.device, 1 << 62, rig.rt.bo.host_only, 1), RuntimeError),
            (lambda bo, rig: rig.rt.bo(rig.device, -1, rig.rt.bo.host_only, 1), TypeError),
            (lambda bo, rig: rig.rt.bo(rig.device, 8.0, rig.rt.bo.host_only, 1), TypeError),
            (lambda bo, rig: rig.rt.bo(rig.device, 8, 0, 1), TypeError),
            (lambda bo, rig: rig.rt.bo(rig.device, 8, rig.rt.bo.host_only), TypeError),
            (lambda bo, rig: rig.rt.bo(rig.kernel, 8, rig.rt.bo.host_only, 1), TypeError),
            (lambda bo, rig: rig.rt.bo(), TypeError),
        ],
    )
    def test_what_is_outside_or_of_another_type_is_refused(self, rig, call, error):
        with pytest.raises(error):
            call(rig.a, rig)

    def test_edges_are_inside(self, rig):
        rig.a.write(bytes([7]), 127)
        rig.a.sync(rig.to, 1, 127)
        assert rig.a.read(1, 127).tolist() == [7]
        assert rig.a.read(1, 127).dtype == np.int8
        assert rig.rt.bo(rig.a, 1, 127).size() == 1

    def test_a_map_can_be_written_and_shows_what_is_written(self, rig):
        view = np.frombuffer(rig.a.map(), np.int8)
        view[3] = 5
        assert rig.a.read(1, 3).tolist() == [5]
        rig.a.write(bytes([9]), 3)
        assert view[3] == 9

    def test_memory_of_the_device_alone_has_no_view(self, rig):
        buffer = rig.rt.bo(rig.device, 8, rig.rt.bo.device_only, 1)
        for call in (buffer.map, lambda: buffer.write(bytes(1), 0), lambda: buffer.read(1, 0)):
            with pytest.raises(RuntimeError, match="no host buffer"):
                call()

    def test_a_context_can_own_a_buffer(self, rig):
        group = rig.kernel.group_id(3)
        for buffer in (
            rig.rt.bo(rig.context, 128, rig.rt.bo.host_only, group),
            rig.rt.bo(rig.context, 128, group),
            rig.rt.bo(device=rig.device, size=128, flags=rig.rt.bo.flags.host_only, group=group),
        ):
            rig.run().set_arg(3, buffer)


class TestObjects:
    def test_the_module_has_what_pyxrt_has_and_nothing_else(self, rig):
        with pytest.raises(AttributeError):
            rig.rt.load_everything  # noqa: B018
        with pytest.raises(AttributeError):
            rig.rt.ert_cmd_state.ERT_CMD_STATE_RUNNING  # noqa: B018  # not bound
        with pytest.raises(AttributeError):
            rig.rt.runlist(rig.context).reset  # noqa: B018
        assert rig.rt.enumerate_devices() == 1
        assert int(rig.rt.ert_cmd_state.ERT_CMD_STATE_COMPLETED) == 4
        assert rig.rt.ert_cmd_state.ERT_CMD_STATE_COMPLETED != 4

    def test_classes_can_be_derived_from(self, rig):
        class Counted(rig.rt.run):
            started = 0

            def start(self):
                self.started += 1
                return super().start()

        run = Counted(rig.kernel)
        with pytest.raises(RuntimeError, match="argument 0"):
            run.start()
        assert run.started == 1

    @pytest.mark.parametrize(
        ("which", "error"),
        [(1, RuntimeError), (-1, TypeError), (True, TypeError), (1.0, TypeError), ("x", RuntimeError)],
    )
    def test_another_device_is_not_there(self, rig, which, error):
        with pytest.raises(error):
            rig.rt.device(which)

    def test_a_device_tells_its_name_and_address(self, rig):
        info = rig.rt.xrt_info_device
        assert rig.device.get_info(info.name) == "RyzenAI-npu1"
        assert rig.rt.device(rig.device.get_info(info.bdf)).get_info(info.max_clock_frequency_mhz) == "1600"
        with pytest.raises(RuntimeError):
            rig.device.get_info(info.thermal)
        with pytest.raises(TypeError):
            rig.device.get_info("name")

    def test_a_file_that_is_no_xclbin_is_refused(self, rig, tmp_path):
        other = tmp_path / "x.xclbin"
        other.write_bytes(b"no xclbin")
        for path in (other, tmp_path / "none.xclbin", tmp_path):
            with pytest.raises(RuntimeError, match="expected"):
                rig.rt.xclbin(str(path))
        with pytest.raises(TypeError):
            rig.rt.xclbin(other)

    def test_an_xclbin_tells_its_kernels(self, rig):
        xclbin = rig.rt.xclbin(str(rig.built.xclbin))
        assert [(kernel.get_name(), kernel.get_num_args()) for kernel in xclbin.get_kernels()] == [("MLIR_AIE", 6)]
        assert xclbin.get_uuid().to_string() == read_xclbin(rig.built.xclbin).uuid
        assert xclbin.get_xsa_name() == "npuscope:emulated:npu1"

    def test_a_real_design_cannot_be_emulated(self, rig, tmp_path):
        path = tmp_path / "real.xclbin"
        path.write_bytes(writer.xclbin_bytes())
        with pytest.raises(RuntimeError, match="whose cores it cannot run"):
            rig.rt.hw_context(rig.device, rig.rt.xclbin(str(path)))

    def test_a_context_needs_a_registered_xclbin(self, rig):
        uuid = rig.rt.xclbin(str(rig.built.xclbin)).get_uuid()
        with pytest.raises(RuntimeError, match="registered"):
            rig.rt.hw_context(rig.rt.device(0), uuid)
        for which in (rig.rt.xclbin(str(rig.built.xclbin)), str(rig.built.xclbin)):
            assert rig.rt.hw_context(rig.rt.device(0), which).get_xclbin_uuid().to_string() == uuid.to_string()
        with pytest.raises(TypeError):
            rig.rt.hw_context(rig.device, 1)

    def test_a_design_for_another_array_is_refused(self, rig, tmp_path):
        other = build_emulated(DESIGN, "npu2", tmp_path, "other")
        with pytest.raises(RuntimeError, match="is for npu2"):
            rig.rt.hw_context(rig.device, str(other.xclbin))

    @pytest.mark.parametrize(("array", "limit"), [("npu1", 6), ("npu2", 16)])
    def test_contexts_are_as_many_as_the_driver_has(self, make, array, limit):
        rig = make(array=array)
        held = [rig.new_context() for _ in range(limit - 1)]
        with pytest.raises(RuntimeError, match=f"{limit} are in use"):
            rig.new_context()
        held.pop()
        gc.collect()
        rig.new_context()
        assert rig.rt.counters.contexts == limit + 1

    def test_a_context_that_ran_a_command_gives_its_place_back(self, rig):
        rig.rt.faults.context_limit = 1
        assert rig.ends_as(rig.run()) == "COMPLETED"
        rig.context = rig.kernel = None
        gc.collect()
        rig.new_context()

    def test_a_kernel_keeps_its_context(self, rig):
        rig.rt.faults.context_limit = 1
        rig.context = None
        gc.collect()
        with pytest.raises(RuntimeError, match="1 are in use"):
            rig.new_context()

    def test_a_kernel_that_the_xclbin_has_not_is_refused(self, rig):
        with pytest.raises(RuntimeError, match="No such kernel 'mlir_aie'"):
            rig.rt.kernel(rig.context, "mlir_aie")
        with pytest.raises(TypeError):
            rig.rt.kernel(rig.device, "MLIR_AIE")
        assert rig.rt.kernel(hw_context=rig.context, name="MLIR_AIE").group_id(3) == rig.kernel.group_id(3)

    def test_groups_are_of_buffers(self, rig):
        assert len({rig.kernel.group_id(argument) for argument in (1, 3, 4, 5)}) == 4
        for argument in (0, 2):
            with pytest.raises(RuntimeError):
                rig.kernel.group_id(argument)
        for argument in (-1, 6):
            with pytest.raises(IndexError):
                rig.kernel.group_id(argument)


class TestRuns:
    @pytest.mark.parametrize(
        ("index", "value", "error"),
        [
            (0, 3.0, TypeError),
            (0, True, TypeError),
            (0, "3", TypeError),
            (0, 1 << 31, TypeError),
            (2, "a", TypeError),
            (3, 5, TypeError),
            (6, 1, IndexError),
            (-1, 1, IndexError),
            (1.0, 1, TypeError),
        ],
    )
    def test_an_argument_of_another_kind_is_refused(self, rig, index, value, error):
        with pytest.raises(error):
            rig.rt.run(rig.kernel).set_arg(index, value)

    def test_a_buffer_of_another_group_or_for_a_scalar_is_refused(self, rig):
        run = rig.rt.run(rig.kernel)
        with pytest.raises(RuntimeError, match="group"):
            run.set_arg(3, rig.b)
        with pytest.raises(TypeError):
            run.set_arg(0, rig.a)
        with pytest.raises(IndexError):
            run.set_arg(6, rig.c)

    @pytest.mark.parametrize("name", ["opcode", "instructions", "count", "a", "b", "c"])
    def test_a_run_without_one_argument_does_not_start(self, rig, name):
        with pytest.raises(RuntimeError, match="is not set"):
            rig.run(**{name: None}).start()

    def test_a_run_starts_once_at_a_time(self, rig):
        run = rig.run()
        run.start()
        with pytest.raises(RuntimeError, match="bad command state"):
            run.start()
        with pytest.raises(RuntimeError, match="in progress"):
            run.set_arg(0, 3)
        run.wait()
        run.start()
        run.wait()
        assert rig.rt.counters.commands == 2

    def test_a_state_is_new_until_somebody_waits(self, rig):
        run = rig.run()
        assert run.state().name == "ERT_CMD_STATE_NEW"
        assert run.wait().name == "ERT_CMD_STATE_NEW"
        run.start()
        assert run.state().name == "ERT_CMD_STATE_NEW"
        run.wait()
        assert run.state().name == "ERT_CMD_STATE_COMPLETED"

    @pytest.mark.parametrize("opcode", [0, 1, 2, 4])
    def test_another_opcode_is_an_error(self, rig, opcode):
        assert rig.ends_as(rig.run(opcode=opcode)) == "ERROR"

    @pytest.mark.parametrize(("unit", "good"), [("bytes", 36), ("words", 9)])
    def test_a_wrong_count_of_instructions_never_ends_in_a_result(self, make, unit, good):
        rig = make(instruction_count_unit=unit)
        rig.fill(*operands())
        assert rig.ends_as(rig.run(count=good)) == "COMPLETED"
        expected = rig.result().copy()
        rig.fill(*operands(seed=1))
        for count in {0, 1, 9, 36, 37, 72, -36} - {good}:
            assert rig.ends_as(rig.run(count=count)) == "ABORT"
            assert np.array_equal(rig.result(), expected), "the old result stays"

    @pytest.mark.parametrize("argument", [3, 4, 5])
    def test_a_buffer_that_is_too_small_is_an_error(self, rig, argument):
        small = rig.buffer(argument, size=rig.buffer(argument).size() - 1)
        assert rig.ends_as(rig.run(**{"abc"[argument - 3]: small})) == "ERROR"

    def test_instructions_for_another_array_are_an_error(self, rig, tmp_path):
        other = build_emulated(DESIGN, "npu2", tmp_path, "other")
        buffer = rig.instruction_buffer(read_instructions(other.instructions).words)
        assert rig.ends_as(rig.run(instructions=buffer)) == "ERROR"

    def test_instructions_that_were_not_handed_over_never_run(self, rig):
        buffer = rig.rt.bo(rig.device, rig.words.nbytes, rig.rt.bo.cacheable, rig.kernel.group_id(1))
        buffer.write(rig.words, 0)
        assert rig.ends_as(rig.run(instructions=buffer)) in {"ERROR", "ABORT"}

    def test_a_wait_of_limited_time_stops_nothing(self, make):
        rig = make(command_ns=lambda design, *, in_list=False: 50 * MS)
        rig.fill(*operands())
        run = rig.run()
        run.start()
        assert run.wait(1).name == "ERT_CMD_STATE_TIMEOUT"
        with pytest.raises(RuntimeError, match="bad command state"):
            run.start()
        assert run.wait(0).name == "ERT_CMD_STATE_COMPLETED"

    def test_wait2_raises_and_its_timeout_cannot_be_told(self, rig):
        run = rig.run()
        run.start()
        assert run.wait2() is None
        failing = rig.run(opcode=2)
        failing.start()
        with pytest.raises(RuntimeError, match="ERT_CMD_STATE_ERROR"):
            failing.wait2()
        with pytest.raises(TypeError, match="std::cv_status"):
            run.wait2(timedelta(milliseconds=1))

    @pytest.mark.parametrize("timeout", [-1, 1.0, timedelta(1), None])
    def test_a_timeout_of_another_type_is_refused(self, rig, timeout):
        with pytest.raises(TypeError):
            rig.run().wait(timeout)

    def test_letting_go_of_a_running_run_ends_everything(self, rig):
        run = rig.run()
        run.start()
        del run
        gc.collect()
        assert rig.rt.counters.abandoned == 1
        with pytest.raises(RuntimeError, match="destructed while command is still in progress"):
            rig.run()

    def test_a_finished_run_can_be_let_go_of(self, rig):
        rig.ends_as(rig.run())
        gc.collect()
        assert rig.rt.counters.abandoned == 0
        rig.a.sync(rig.to)


class TestRunLists:
    def listed(self, rig, count, **changes):
        runs = [rig.run(**changes) for _ in range(count)]
        chain = rig.rt.runlist(rig.context)
        for run in runs:
            chain.add(run)
        return chain, runs

    def test_a_list_that_completes_leaves_its_results_and_no_state_of_its_runs(self, rig):
        a, b = operands()
        rig.fill(a, b)
        chain, runs = self.listed(rig, 3)
        chain.execute()
        chain.wait()
        assert {run.state().name for run in runs} == {"ERT_CMD_STATE_NEW"}, "only the chain has a state"
        assert np.array_equal(rig.result(), a.astype(int) @ b.astype(int))
        chain.execute()
        chain.wait()
        assert rig.rt.counters.commands == 6

    @pytest.mark.parametrize(("count", "submissions"), [(1, 1), (24, 1), (25, 2), (49, 3)])
    def test_a_submission_takes_24_commands(self, rig, count, submissions):
        chain, _ = self.listed(rig, count)
        chain.execute()
        chain.wait()
        assert (rig.rt.counters.submissions, rig.rt.counters.commands) == (submissions, count)

    def test_a_run_of_a_list_cannot_be_started_singly(self, rig):
        chain, runs = self.listed(rig, 1)
        with pytest.raises(RuntimeError, match="cannot be explicitly started"):
            runs[0].start()
        del chain
        gc.collect()
        assert rig.ends_as(runs[0]) == "COMPLETED"

    def test_a_list_is_executed_once_at_a_time(self, rig):
        chain, _ = self.listed(rig, 2)
        chain.execute()
        with pytest.raises(RuntimeError, match="must be idle before submitting"):
            chain.execute()
        with pytest.raises(RuntimeError, match="must be idle before adding"):
            chain.add(rig.run())

    def test_runs_of_elsewhere_are_refused(self, rig):
        chain, runs = self.listed(rig, 1)
        other = rig.rt.run(rig.rt.kernel(rig.new_context(), "MLIR_AIE"))
        started = rig.run()
        started.start()
        for run, why in ((other, "another hardware context"), (runs[0], "already"), (started, "in progress")):
            with pytest.raises(RuntimeError, match=why):
                chain.add(run)
        with pytest.raises(TypeError):
            chain.add(rig.kernel)
        started.wait()

    def test_a_list_with_an_incomplete_run_submits_nothing(self, rig):
        chain, _ = self.listed(rig, 2)
        chain.add(rig.run(c=None))
        with pytest.raises(RuntimeError, match="is not set"):
            chain.execute()
        assert rig.rt.counters.commands == 0

    def test_what_stands_behind_a_failed_command_is_aborted(self, rig):
        rig.rt.faults.error_at_command = 2
        chain, runs = self.listed(rig, 30)
        chain.execute()
        with pytest.raises(RuntimeError, match=r"runlist failed execution \(ERT_CMD_STATE_ERROR\)"):
            chain.wait()
        states = [run.state().name.removeprefix("ERT_CMD_STATE_") for run in runs]
        assert states == ["NEW", "ERROR", *["ABORT"] * 28]
        chain.wait()  # it is idle again: the failure is told once
        chain.execute()
        chain.wait()

    def test_waiting_for_one_run_of_a_list_waits_for_nothing(self, rig):
        rig.fill(*operands())
        chain, runs = self.listed(rig, 2)
        chain.execute()
        assert runs[1].wait().name == "ERT_CMD_STATE_NEW"
        assert (rig.result() == -1).all(), "the result is not there"
        chain.wait()
        assert not (rig.result() == -1).all()

    def test_waiting_for_a_list_that_does_not_run_returns(self, rig):
        chain, _ = self.listed(rig, 1)
        assert chain.wait() is None
        empty = rig.rt.runlist(rig.context)
        empty.execute()
        assert empty.wait() is None

    def test_a_timeout_cannot_be_told(self, rig):
        chain, _ = self.listed(rig, 1)
        with pytest.raises(TypeError, match="std::cv_status"):
            chain.wait(timedelta(milliseconds=1))

    def test_operands_cannot_change_under_a_running_list(self, rig):
        chain, _ = self.listed(rig, 2)
        chain.execute()
        with pytest.raises(RuntimeError, match="has not been waited for"):
            rig.a.sync(rig.to)
        chain.wait()
        rig.a.sync(rig.to)


class TestFaults:
    def test_a_lost_device_refuses_every_later_call(self, rig):
        run, chain = rig.run(), rig.rt.runlist(rig.context)
        rig.rt.faults.lost_at_command = 2
        assert rig.ends_as(run) == "COMPLETED"
        with pytest.raises(RuntimeError, match="device is lost"):
            run.start()
        for call in (
            run.start,
            run.wait,
            run.state,
            chain.execute,
            chain.wait,
            rig.a.map,
            lambda: rig.a.sync(rig.to),
            lambda: rig.run(),
            lambda: rig.buffer(3),
            lambda: rig.rt.device(0),
            lambda: rig.rt.kernel(rig.context, "MLIR_AIE"),
            rig.new_context,
        ):
            with pytest.raises(RuntimeError, match="device is lost"):
                call()

    def test_a_hung_command_is_killed_and_takes_its_context_with_it(self, rig):
        rig.fill(*operands())
        rig.rt.faults.hang_at_command = 1
        first, second = rig.run(), rig.run()
        before = rig.rt.clock.current_ns()
        first.start()
        second.start()
        assert first.wait(1).name == "ERT_CMD_STATE_TIMEOUT"
        assert first.wait().name == "ERT_CMD_STATE_TIMEOUT"
        assert rig.rt.clock.current_ns() - before > MS * ARRAY.job_timeout_ms
        assert second.wait().name == "ERT_CMD_STATE_ABORT"
        assert rig.rt.counters.commands == 2
        assert (rig.result() == -1).all()
        with pytest.raises(RuntimeError, match="context was reset"):
            first.start()
        rig.kernel = rig.rt.kernel(rig.new_context(), "MLIR_AIE")
        assert rig.ends_as(rig.run()) == "COMPLETED"

    def test_a_command_longer_than_the_drivers_limit_is_killed(self, make):
        limit = ARRAY.job_timeout_ms * MS
        for duration, state in ((limit, "COMPLETED"), (limit + 1, "TIMEOUT")):
            rig = make(command_ns=lambda design, *, in_list=False, duration=duration: duration)
            assert rig.ends_as(rig.run()) == state

    def test_an_error_leaves_the_old_result(self, rig):
        rig.fill(*operands())
        rig.ends_as(rig.run())
        old = rig.result().copy()
        rig.fill(*operands(seed=1))
        rig.rt.faults.error_at_command = 2
        assert rig.ends_as(rig.run()) == "ERROR"
        assert np.array_equal(rig.result(), old)

    def test_a_corrupted_result_differs_in_one_element(self, make):
        kept = []
        rig = make(multiply=lambda a, b, design: kept.append(exact(a, b, design)) or kept[-1])
        a, b = operands()
        rig.fill(a, b)
        rig.rt.faults.corrupt_at_command = 1
        assert rig.ends_as(rig.run()) == "COMPLETED"
        assert (rig.result() != a.astype(int) @ b.astype(int)).sum() == 1
        assert np.array_equal(kept[0][0], a.astype(int) @ b.astype(int)), "what multiplied keeps its own result"

    def test_the_nth_buffer_is_refused(self, rig):
        rig.rt.faults.refuse_buffer = rig.rt.counters.buffers + 2
        rig.buffer(3)
        with pytest.raises(RuntimeError, match="Cannot allocate memory"):
            rig.buffer(3)
        rig.buffer(3)


class TestClock:
    """Virtual time: host time is whatever passes, so that only lower bounds and differences of device time are exact."""

    def test_the_device_is_busy_for_its_commands_and_one_configuration(self, rig):
        for _ in range(3):
            rig.ends_as(rig.run())
        assert rig.rt.clock.busy_ns == 3 * COMMAND_NS + round(MS * ARRAY.reconfigure_ms)

    def test_changing_between_contexts_configures_each_time(self, rig):
        other = rig.rt.kernel(rig.new_context(), "MLIR_AIE")
        runs = [rig.run()]
        rig.kernel = other
        runs.append(rig.run())
        for index in (0, 1, 0, 0):
            rig.ends_as(runs[index])
        assert rig.rt.clock.busy_ns == 4 * COMMAND_NS + 3 * round(MS * ARRAY.reconfigure_ms)

    def test_a_wait_lasts_until_the_command_ends_and_overlaps_the_host(self, make):
        rig = make(command_ns=lambda design, *, in_list=False: 500 * MS)
        rig.ends_as(rig.run())
        begin = rig.rt.clock.current_ns()
        run = rig.run()
        run.start()
        rig.rt.clock.sleep(0.4)
        run.wait()
        assert 500 * MS <= rig.rt.clock.now_ns - begin < 900 * MS

    def test_commands_queue_behind_one_another(self, make):
        rig = make(command_ns=lambda design, *, in_list=False: 100 * MS)
        runs = [rig.run() for _ in range(3)]
        begin = rig.rt.clock.current_ns()
        for run in runs:
            run.start()
        assert rig.rt.clock.free_at_ns - begin >= 300 * MS
        runs[2].wait()
        assert rig.rt.clock.now_ns == rig.rt.clock.free_at_ns
        for run in runs:
            run.wait()

    def test_a_device_that_rested_has_to_wake(self, rig):
        rig.ends_as(rig.run())
        rig.rt.clock.sleep(ARRAY.autosuspend_ms / 1e3 - 1)
        rig.ends_as(rig.run())
        assert rig.rt.clock.waking_ns == 0
        rig.rt.clock.sleep(ARRAY.autosuspend_ms / 1e3 + 0.001)
        begin = rig.rt.clock.current_ns()
        rig.ends_as(rig.run())
        assert rig.rt.clock.waking_ns == round(MS * ARRAY.idle_wake_ms)
        assert rig.rt.clock.now_ns - begin >= MS * ARRAY.idle_wake_ms

    def test_a_context_takes_its_time(self, rig):
        begin = rig.rt.clock.current_ns()
        rig.new_context()
        assert rig.rt.clock.now_ns - begin >= MS * ARRAY.context_ms

    def test_a_list_is_submitted_once_and_its_commands_know(self, make):
        rig = make(command_ns=lambda design, *, in_list=False: 1000 if in_list else 5000, submission_ns=70)
        rig.ends_as(rig.run())
        before = rig.rt.clock.busy_ns
        chain = rig.rt.runlist(rig.context)
        runs = [rig.run() for _ in range(25)]
        for run in runs:
            chain.add(run)
        chain.execute()
        chain.wait()
        assert rig.rt.clock.busy_ns - before == 25 * 1000 + 2 * 70

    def test_the_emulators_own_time_is_not_the_hosts(self, make):
        spent_ns = 30 * MS

        def slow(a, b, design):
            end = perf_counter_ns() + spent_ns
            while perf_counter_ns() < end:
                pass
            return exact(a, b, design)

        rig = make(multiply=slow)
        run, clock = rig.run(), rig.rt.clock
        emulated_ns, began_ns = clock.emulation_ns, perf_counter_ns()
        before_ns = clock.current_ns()
        run.start()
        host_ns = clock.current_ns() - before_ns
        assert clock.emulation_ns - emulated_ns >= spent_ns
        assert host_ns <= perf_counter_ns() - began_ns - spent_ns
        run.wait()

    def test_calls_within_a_call_end_with_it(self, rig):
        def spin():
            end = perf_counter_ns() + 5 * MS
            while perf_counter_ns() < end:
                pass

        class Nested:
            _emulated = rig.rt.device._emulated

            @timed
            def outer(self):
                self.inner()
                spin()
                self.inner()

            @timed
            def inner(self):
                spin()

        clock = rig.rt.clock
        emulated_ns, began_ns, before_ns = clock.emulation_ns, perf_counter_ns(), clock.current_ns()
        Nested().outer()
        host_ns = clock.current_ns() - before_ns
        assert clock.emulation_ns - emulated_ns >= 15 * MS
        assert host_ns <= perf_counter_ns() - began_ns - 15 * MS


def test_counters_are_the_devices_own(rig):
    counters = rig.rt.counters
    assert (counters.contexts, counters.buffers, counters.runs, counters.commands) == (1, 4, 0, 0)
    assert counters.synced_to_bytes == rig.words.nbytes
    rig.fill(*operands())
    rig.ends_as(rig.run())
    rig.result()
    rig.c.sync(rig.back, 4, 8)
    assert (counters.runs, counters.commands, counters.submissions) == (1, 1, 1)
    assert counters.synced_to_bytes == rig.words.nbytes + DESIGN.a_bytes + DESIGN.b_bytes
    assert counters.synced_from_bytes == DESIGN.c_bytes + 4
