"""XLA programs on a simulated NeuronCore: an HLO module lowered to the instructions of its engines."""
