"""The fields of XLA's HLO messages that npuscope reads, as message classes of the protobuf runtime.

Source: `xla/service/hlo.proto` and `xla/xla_data.proto` of openxla/xla. Fields that are not listed are skipped by the
runtime; texts are read as bytes, since a damaged one must not stop the reader.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

MESSAGES: Final[dict[str, tuple[tuple[str, int, str], ...]]] = {
    "Layout": (("minor_to_major", 1, "int64*"),),
    "Shape": (
        ("element_type", 2, "int32"),
        ("dimensions", 3, "int64*"),
        ("tuple_shapes", 4, "Shape*"),
        ("layout", 5, "Layout"),
    ),
    "ProgramShape": (("parameters", 1, "Shape*"), ("result", 2, "Shape"), ("parameter_names", 3, "bytes*")),
    "Literal": (
        ("preds", 2, "bool*"),
        ("u8s", 3, "bytes"),
        ("s32s", 4, "int32*"),
        ("s64s", 5, "int64*"),
        ("u32s", 6, "uint32*"),
        ("u64s", 7, "uint64*"),
        ("f32s", 8, "float*"),
        ("f64s", 9, "double*"),
        ("f16s", 11, "bytes"),
        ("bf16s", 13, "bytes"),
        ("s8s", 15, "bytes"),
        ("u16s", 16, "bytes"),
        ("s16s", 17, "bytes"),
    ),
    "Metadata": (
        ("op_type", 1, "bytes"),
        ("op_name", 2, "bytes"),
        ("source_file", 3, "bytes"),
        ("source_line", 4, "int32"),
        ("stack_frame_id", 15, "int32"),
    ),
    "WindowDimension": (
        ("size", 1, "int64"),
        ("stride", 2, "int64"),
        ("padding_low", 3, "int64"),
        ("padding_high", 4, "int64"),
        ("window_dilation", 5, "int64"),
        ("base_dilation", 6, "int64"),
        ("window_reversal", 7, "bool"),
    ),
    "Window": (("dimensions", 1, "WindowDimension*"),),
    "ConvolutionDimensions": (
        ("kernel_input_feature", 3, "int64"),
        ("kernel_output_feature", 4, "int64"),
        ("kernel_spatial", 6, "int64*"),
        ("input_batch", 7, "int64"),
        ("input_feature", 8, "int64"),
        ("output_batch", 9, "int64"),
        ("output_feature", 10, "int64"),
        ("input_spatial", 11, "int64*"),
        ("output_spatial", 12, "int64*"),
    ),
    "DotDimensions": (
        ("lhs_contracting", 1, "int64*"),
        ("rhs_contracting", 2, "int64*"),
        ("lhs_batch", 3, "int64*"),
        ("rhs_batch", 4, "int64*"),
    ),
    "GatherDimensions": (
        ("offset_dims", 1, "int64*"),
        ("collapsed_slice_dims", 2, "int64*"),
        ("start_index_map", 3, "int64*"),
        ("index_vector_dim", 4, "int64"),
    ),
    "ScatterDimensions": (
        ("update_window_dims", 1, "int64*"),
        ("inserted_window_dims", 2, "int64*"),
        ("scatter_dims_to_operand_dims", 3, "int64*"),
        ("index_vector_dim", 4, "int64"),
    ),
    "SliceDimension": (("start", 1, "int64"), ("limit", 2, "int64"), ("stride", 3, "int64")),
    "PaddingDimension": (("edge_low", 1, "int64"), ("edge_high", 2, "int64"), ("interior", 3, "int64")),
    "Padding": (("dimensions", 1, "PaddingDimension*"),),
    "Instruction": (
        ("name", 1, "bytes"),
        ("opcode", 2, "bytes"),
        (
            "shape",
            3,
            "bytes",
        ),  # a Shape, decoded once per distinct one: a program has few, and that is most of the work
        ("metadata", 7, "Metadata"),
        ("literal", 8, "Literal"),
        ("parameter_number", 9, "int64"),
        ("fusion_kind", 11, "bytes"),
        ("tuple_index", 13, "int64"),
        ("dimensions", 14, "int64*"),
        ("window", 15, "Window"),
        ("convolution", 16, "ConvolutionDimensions"),
        ("slices", 17, "SliceDimension*"),
        ("dynamic_slice_sizes", 20, "int64*"),
        ("padding", 21, "Padding"),
        ("custom_call_target", 28, "bytes"),
        ("dot", 30, "DotDimensions"),
        ("fft_length", 32, "int64*"),
        ("gather", 33, "GatherDimensions"),
        ("gather_slice_sizes", 34, "int64*"),
        ("id", 35, "int64"),
        ("operand_ids", 36, "int64*"),
        ("called_computation_ids", 38, "int64*"),
        ("backend_config", 43, "bytes"),
        ("scatter", 48, "ScatterDimensions"),
        ("feature_group_count", 50, "int64"),
        ("batch_group_count", 58, "int64"),
        ("comparison_direction", 63, "bytes"),
    ),
    "Computation": (
        ("name", 1, "bytes"),
        ("instructions", 2, "Instruction*"),
        ("program_shape", 4, "ProgramShape"),
        ("id", 5, "int64"),
        ("root_id", 6, "int64"),
    ),
    "ComputationOutline": (
        ("name", 1, "bytes"),
        ("instructions", 2, "bytes*"),  # not decoded yet: that is done for all of them at once
        ("id", 5, "int64"),
        ("root_id", 6, "int64"),
    ),
    "FileLocation": (("file_name_id", 1, "int32"), ("function_name_id", 2, "int32"), ("line", 3, "int32")),
    "StackFrame": (("file_location_id", 1, "int32"), ("parent_frame_id", 2, "int32")),
    "StackFrameIndex": (
        ("file_names", 1, "bytes*"),
        ("function_names", 2, "bytes*"),
        ("file_locations", 3, "FileLocation*"),
        ("stack_frames", 4, "StackFrame*"),
    ),
    "Module": (
        ("name", 1, "bytes"),
        ("entry_computation_name", 2, "bytes"),
        ("computations", 3, "Computation*"),
        ("id", 5, "int64"),
        ("entry_computation_id", 6, "int64"),
        ("stack_frames", 17, "StackFrameIndex"),
    ),
    "ModuleOutline": (
        ("name", 1, "bytes"),
        ("entry_computation_name", 2, "bytes"),
        ("computations", 3, "ComputationOutline*"),
        ("entry_computation_id", 6, "int64"),
        ("stack_frames", 17, "StackFrameIndex"),
    ),
}
"""Message to its fields: name, number, and type; `*` is repeated. Names are ours where XLA's are longer."""

ELEMENT_TYPES: Final[dict[int, tuple[str, float]]] = {
    1: ("pred", 1), 2: ("s8", 1), 3: ("s16", 2), 4: ("s32", 4), 5: ("s64", 8),
    6: ("u8", 1), 7: ("u16", 2), 8: ("u32", 4), 9: ("u64", 8),
    10: ("f16", 2), 11: ("f32", 4), 12: ("f64", 8), 13: ("tuple", 0), 14: ("opaque", 0),
    15: ("c64", 8), 16: ("bf16", 2), 17: ("token", 0), 18: ("c128", 16),
    19: ("f8e5m2", 1), 20: ("f8e4m3fn", 1), 21: ("s4", 0.5), 22: ("u4", 0.5), 23: ("f8e4m3b11fnuz", 1),
    24: ("f8e5m2fnuz", 1), 25: ("f8e4m3fnuz", 1), 26: ("s2", 0.25), 27: ("u2", 0.25), 28: ("f8e4m3", 1), 29: ("f8e3m4", 1),
    30: ("s1", 0.125), 31: ("u1", 0.125), 32: ("f4e2m1fn", 0.5), 33: ("f8e8m0fnu", 1), 34: ("buffer", 0),
}  # fmt: skip
"""`PrimitiveType` of xla_data.proto: name as HLO text has it, and bytes per element."""

_SCALARS: Final = {"double": 1, "float": 2, "int64": 3, "uint64": 4, "int32": 5, "bool": 8, "bytes": 12, "uint32": 13}
"""`FieldDescriptorProto.Type`."""


def field_numbers(message: str, *names: str) -> tuple[int, ...]:
    """Numbers of fields of a message, in the order asked for."""
    numbers = {name: number for name, number, _ in MESSAGES[message]}
    return tuple(numbers[name] for name in names)


@cache
def message_class(name: str) -> Any:
    """The class of one message of `MESSAGES`; the protobuf runtime is imported only here."""
    from google.protobuf import message_factory

    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"npuscope.hlo.{name}"))


@cache
def _pool() -> Any:
    from google.protobuf import descriptor_pb2, descriptor_pool

    file = descriptor_pb2.FileDescriptorProto(name="npuscope_hlo.proto", package="npuscope.hlo", syntax="proto3")
    for name, members in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind in members:
            base = kind.removesuffix("*")
            entry = message.field.add(name=field, number=number, label=3 if kind.endswith("*") else 1)
            if base in _SCALARS:
                entry.type = _SCALARS[base]
            else:
                entry.type, entry.type_name = 11, f".npuscope.hlo.{base}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool
