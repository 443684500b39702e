"""A large run.

python -m tests.fuzz --inputs 20000              # every target; those on sockets get a tenth
python -m tests.fuzz --litellm --inputs 5000     # where LiteLLM is installed
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.fuzz.running import fuzz
from tests.fuzz.targets import CALLERS, CHAT, on_sockets


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--litellm", action="store_true")
    parser.add_argument("--only", default="", help="a part of a target's name")
    given = parser.parse_args()
    begun = time.monotonic()
    print("| target | inputs | answered | refused by a typed error | lost |\n| --- | --- | --- | --- | --- |")
    with on_sockets(given.litellm) as sockets:
        targets = sockets if given.litellm else {**CHAT, **CALLERS, **sockets}
        for name, target in targets.items():
            if given.only not in name:
                continue
            try:
                fuzz(target, int(given.inputs * target.share))
            except AssertionError as error:
                print(error)
            counts = " | ".join(f"{target.seen[what]:,}" for what in ("inputs", "answered", "refused", "lost"))
            print(f"| {name} | {counts} |", flush=True)
        inputs, lost = (sum(target.seen[what] for target in targets.values()) for what in ("inputs", "lost"))
    print(f"\n{inputs:,} inputs in {time.monotonic() - begun:.0f} s, lost: {lost}")
    return min(lost, 1)


if __name__ == "__main__":
    sys.exit(main())
