"""Step 1: compile the MLP kernels of nki-library and of neuronx-cc to NEFFs, with inputs and a manifest, in a folder.

    python benchmark_mlp_step1_generate_neff.py --out mlp_neffs

Needs a Neuron instance (trn2 by default). Any option of `npuscope mlp build` may follow; with an --impl of your own only that is
built, so that `--impl nki-tokens --impl nki-columns` tries both steps on a simulated device, on any machine.
"""

import sys

from npuscope.cli import main

KERNELS = ("--impl", "nkilib", "--impl", "neuronxcc")
DEVICE = ("--target", "trn2", "--lnc", "2")

if __name__ == "__main__":
    own = sys.argv[1:]
    kernels = () if any(word.split("=")[0] == "--impl" for word in own) else KERNELS
    sys.exit(main(["mlp", "build", *kernels, *DEVICE, *own]))
