"""A large fuzzing run.

python -m tests.fuzz --inputs 20000              # every target; targets on sockets get a tenth of the inputs
python -m tests.fuzz --litellm --inputs 5000     # where LiteLLM is installed
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.fuzz.running import fuzz
from tests.fuzz.targets import CALLERS, CHAT, socket_targets


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--litellm", action="store_true")
    parser.add_argument("--only", default="", help="run only targets whose name contains this text")
    arguments = parser.parse_args()
    begin = time.monotonic()
    print("| target | inputs | responses | typed errors | lost |\n| --- | --- | --- | --- | --- |")
    with socket_targets(arguments.litellm) as sockets:
        targets = sockets if arguments.litellm else {**CHAT, **CALLERS, **sockets}
        for name, target in targets.items():
            if arguments.only not in name:
                continue
            try:
                fuzz(target, int(arguments.inputs * target.share))
            except AssertionError as error:
                print(error)
            counts = " | ".join(f"{target.counts[what]:,}" for what in ("inputs", "responses", "errors", "lost"))
            print(f"| {name} | {counts} |", flush=True)
        inputs, lost = (sum(target.counts[what] for target in targets.values()) for what in ("inputs", "lost"))
    print(f"\n{inputs:,} inputs in {time.monotonic() - begin:.0f} s, lost: {lost}")
    return min(lost, 1)


if __name__ == "__main__":
    sys.exit(main())
