"""A NeuronCore in time: engines, DMA, memories, and the schedule of a recorded program on them."""
