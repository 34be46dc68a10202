"""`torch_xla.debug.metrics`."""

import torch_xla


def _text(name):
    if not isinstance(name, str):
        raise TypeError("incompatible function arguments")
    return name


def counter_value(name):
    return torch_xla._counters.get(_text(name))


def metric_data(name):
    samples = torch_xla._samples.get(_text(name))
    return None if not samples else (len(samples), sum(samples), [(0.0, value) for value in samples])
