"""Functions that stand for a user's own gated MLP: one that is right, and ways to go wrong."""

import contextlib
import os
import sys
import time

import numpy as np


def right(hidden, gate, up, down):
    """As it should be, in float32."""
    kind = hidden.dtype
    hidden, gate, up, down = (array.astype(np.float32) for array in (hidden, gate, up, down))
    gated = hidden @ gate
    print("a user's print belongs to nobody's results")
    return ((gated / (1 + np.exp(-gated)) * (hidden @ up)) @ down).astype(kind)


def raises(hidden, gate, up, down):
    raise ValueError("no such luck")


def other_shape(hidden, gate, up, down):
    return hidden[0]


def not_a_number(hidden, gate, up, down):
    return hidden * hidden.dtype.type(float("nan"))


def nothing(hidden, gate, up, down):
    return None


def swapped(hidden, gate, up, down):
    return right(hidden, up, gate, down)


def hangs(hidden, gate, up, down):
    time.sleep(600)


def crashes(hidden, gate, up, down):
    sys.stderr.write("about to crash\n")
    sys.stderr.flush()
    os.abort()


def leaves(hidden, gate, up, down):
    sys.exit(3)


def tires(hidden, gate, up, down, calls=[]):  # noqa: B006 - it is to remember
    calls.append(1)
    if len(calls) > 20:
        raise RuntimeError("enough")
    return right(hidden, gate, up, down)


def remembers(hidden, gate, up, down, kept=[]):  # noqa: B006 - it is to remember
    if not kept:
        kept.append(right(hidden, gate, up, down))
    return kept[0]


def remembers_by_identity(hidden, gate, up, down, kept={}):  # noqa: B006 - it is to remember
    return kept.setdefault(id(hidden), None) or kept.setdefault((id(hidden), 1), right(hidden, gate, up, down))


class Later:
    """A result that is computed only when somebody asks for it."""

    def __init__(self, *arguments):
        self.arguments = arguments

    def __array__(self, dtype=None, copy=None):
        time.sleep(0.02)
        return right(*self.arguments)


def lazy(hidden, gate, up, down):
    return Later(hidden, gate, up, down)


def writes_to_every_pipe(hidden, gate, up, down):
    for descriptor in range(3, 20):
        with contextlib.suppress(OSError):
            os.write(descriptor, b'{"error": 1}\n')
    return right(hidden, gate, up, down)


def writes_into_its_inputs(hidden, gate, up, down):
    result = right(hidden, gate, up, down)
    hidden[:] = 0
    return result
