"""A mutation fuzzer for the decoder and the format detection.

    python -m tests.fuzz --inputs 100000 [--seed 1] [--first 0] [--keep FOLDER]

The inputs go through `AudioProcessor` in child processes, a chunk each, so a crash, a hang or an input that
takes too much memory costs one child, and is a finding with a number: `--first NUMBER --inputs 1` is the same
input again. Ends with code 1 where there were findings. With `--keep` their bytes are written to a folder.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.fuzz.corpus import seeds
from tests.fuzz.mutate import mutated
from tests.fuzz.runner import run


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    arguments = parser.parse_args()
    found = run(arguments.inputs, arguments.seed, arguments.first)
    print(f"{arguments.inputs} inputs from {len(seeds())} files, seed {arguments.seed}")
    for name, count in sorted(found["outcomes"].items(), key=lambda item: -item[1]):
        print(f"{count:8d} {name}")
    print(f"peak memory {found['peak_mb']:.0f} MB, {found['growth_mb']:.0f} MB more than at the start")
    print(f"{len(found['findings'])} findings")
    for number, what in sorted(found["findings"].items()):
        print(f"  {number}: {what}")
        if arguments.keep:
            arguments.keep.mkdir(parents=True, exist_ok=True)
            (arguments.keep / str(number)).write_bytes(mutated(seeds(), arguments.seed, number))
    return 1 if found["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())
