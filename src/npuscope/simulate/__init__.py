"""Timing simulators: what a device would take for a program, without the device."""
