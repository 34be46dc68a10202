"""HLO modules for tests, op by op, as messages of our schema: valid ones, and ones that no compiler would write.

    body = Function("body")
    x = body.parameter(shape("f32", 8))
    body.op("add", shape("f32", 8), x, x)
    data = module_bytes(body)

The last op of a function is its root; `module_bytes` gives ids in order and makes the last function the entry.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass, field
from typing import Any

from npuscope.formats.hlo_schema import ELEMENT_TYPES, message_class

NUMBERS = {name: number for number, (name, _) in ELEMENT_TYPES.items()}
LITERALS = {"pred": "preds", "s32": "s32s", "s64": "s64s", "u32": "u32s", "f32": "f32s"}
PACKED = {"s8": "s8s", "u8": "u8s", "s16": "s16s", "u16": "u16s"}


def shape(element_type: str, *dimensions: int) -> Any:
    """An array with a row-major layout."""
    made = message_class("Shape")(element_type=NUMBERS[element_type])
    made.dimensions.extend(dimensions)
    made.layout.minor_to_major.extend(range(len(dimensions) - 1, -1, -1))
    return made


def tuple_of(*parts: Any) -> Any:
    made = message_class("Shape")(element_type=NUMBERS["tuple"])
    made.tuple_shapes.extend(parts)
    return made


@dataclass
class Function:
    """A computation. Each method adds an op and returns it, to be the operand of another."""

    name: str
    ops: list[Any] = field(default_factory=list)
    operands: list[tuple[Any, ...]] = field(default_factory=list)
    called: list[tuple[Function, ...]] = field(default_factory=list)

    def op(self, opcode: str, result: Any, *operands: Any, calls: tuple[Function, ...] = (), **fields: Any) -> Any:
        """Any op; `fields` are attributes of `hlo_schema`, messages as dictionaries."""
        made = message_class("Instruction")(
            name=f"{opcode}.{len(self.ops)}".encode(),
            opcode=opcode.encode(),
            shape=result.SerializeToString(),
            **fields,
        )
        self.ops.append(made)
        self.operands.append(operands)
        self.called.append(calls)
        return made

    def parameter(self, result: Any) -> Any:
        number = sum(op.opcode == b"parameter" for op in self.ops)
        return self.op("parameter", result, parameter_number=number)

    def constant(self, element_type: str, *values: float) -> Any:
        """A scalar, or a vector of several values."""
        if element_type in PACKED:
            width = int(element_type[1:]) // 8
            signed = element_type[0] == "s"
            data = b"".join(value.to_bytes(width, "little", signed=signed) for value in values)
            literal: dict[str, Any] = {PACKED[element_type]: data}
        else:
            literal = {LITERALS[element_type]: values}
        dimensions = () if len(values) == 1 else (len(values),)
        return self.op("constant", shape(element_type, *dimensions), literal=literal)

    def element(self, result: Any, operand: Any, index: int) -> Any:
        return self.op("get-tuple-element", result, operand, tuple_index=index)

    def compare(self, left: Any, direction: str, right: Any) -> Any:
        return self.op("compare", shape("pred"), left, right, comparison_direction=direction.encode())

    def dot(self, result: Any, left: Any, right: Any, *, contract: tuple[int, int]) -> Any:
        dot = {"lhs_contracting": [contract[0]], "rhs_contracting": [contract[1]]}
        return self.op("dot", result, left, right, dot=dot)

    def while_loop(self, state: Any, initial: Any, *, body: Function, condition: Function, config: bytes = b"") -> Any:
        return self.op("while", state, initial, calls=(body, condition), backend_config=config)


def module(*functions: Function, name: str = "test") -> Any:
    """The message, to be damaged; callees stand before callers, the entry last."""
    made = message_class("Module")(name=name.encode(), entry_computation_name=functions[-1].name.encode())
    places = {id(function): number for number, function in enumerate(functions, 1)}
    identity = 100
    for function in functions:
        computation = made.computations.add(name=function.name.encode(), id=places[id(function)])
        ids = {}
        for op, operands, called in zip(function.ops, function.operands, function.called, strict=True):
            identity += 1
            ids[id(op)] = identity
            item = computation.instructions.add()
            item.CopyFrom(op)
            item.id = identity
            item.operand_ids.extend(ids[id(operand)] for operand in operands)
            item.called_computation_ids.extend(places[id(callee)] for callee in called)
        computation.root_id = identity
    made.entry_computation_id = len(functions)
    return made


def module_bytes(*functions: Function, name: str = "test") -> bytes:
    return module(*functions, name=name).SerializeToString()


def wrapped(data: bytes) -> bytes:
    """Field 1 of a message, as an `HloProto` holds a module and a snapshot an `HloProto`."""
    return message_class("Module")(name=data).SerializeToString()


def packed(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def matmul(M: int = 4, K: int = 8, N: int = 2) -> Function:
    """tanh(a @ b)."""
    main = Function("main")
    left, right = main.parameter(shape("f32", M, K)), main.parameter(shape("f32", K, N))
    main.op("tanh", shape("f32", M, N), main.dot(shape("f32", M, N), left, right, contract=(1, 0)))
    return main


def counting_loop(
    start: int = 0,
    stop: int | None = 5,
    step: int = 1,
    *,
    direction: str = "LT",
    element_type: str = "s32",
    config: bytes = b"",
    stop_is_carried: bool = False,
) -> tuple[Function, ...]:
    """The functions of `while (i DIRECTION stop) { i += step; x *= 2 }`, the entry last.

    Without a `stop`, it is a parameter of the program.
    """
    integer, vector = shape(element_type), shape("f32", 8)
    state = tuple_of(integer, vector, integer)
    body, condition, main = Function("body"), Function("condition"), Function("main")
    carried = body.parameter(state)
    counter = body.element(integer, carried, 0)
    following = body.op("add", integer, counter, body.constant(element_type, step))
    values = body.element(vector, carried, 1)
    doubled = body.op("add", vector, values, values)
    body.op("tuple", state, following, doubled, body.element(integer, carried, 2))
    tested = condition.parameter(state)
    counter = condition.element(integer, tested, 0)
    is_carried = stop_is_carried or stop is None
    limit = condition.element(integer, tested, 2) if is_carried else condition.constant(element_type, stop)
    condition.compare(counter, direction, limit)
    given = main.parameter(vector)
    first = main.constant(element_type, start)
    last = main.parameter(integer) if stop is None else main.constant(element_type, stop)
    initial = main.op("tuple", state, first, given, last)
    main.element(vector, main.while_loop(state, initial, body=body, condition=condition, config=config), 1)
    return body, condition, main
