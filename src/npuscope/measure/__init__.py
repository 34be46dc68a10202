"""Wall clock of a matmul on a device: compile, first run, warm-up, steady state and dispatch floor, kept apart."""
