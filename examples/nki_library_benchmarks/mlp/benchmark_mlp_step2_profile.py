"""Step 2: capture what step 1 built, five times each and interleaved, check the results, and compare.

    python benchmark_mlp_step2_profile.py mlp_neffs

Needs exclusive use of the NeuronCores: end what else runs on them. Any option of `npuscope mlp profile` may follow.
"""

import sys

from npuscope.cli import main

if __name__ == "__main__":
    sys.exit(main(["mlp", "profile", *sys.argv[1:]]))
