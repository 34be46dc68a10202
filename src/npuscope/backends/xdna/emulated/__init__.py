"""An emulated pyxrt: the classes and refusals of the real one, kernels in NumPy, time from the timing model."""

from npuscope.backends.xdna.emulated.build import EmulatedBuild, build_emulated
from npuscope.backends.xdna.emulated.device import Faults
from npuscope.backends.xdna.emulated.runtime import EmulatedRuntime

__all__ = ["EmulatedBuild", "EmulatedRuntime", "Faults", "build_emulated"]
