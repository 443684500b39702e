"""A large fuzzing run, each target in a process of its own.

python -m tests.fuzz --inputs 8000               # every target; slow ones get a share of it (about 100,000 in all)
python -m tests.fuzz --litellm --inputs 5000     # where LiteLLM is installed
python -m tests.fuzz --only "GGUF" --seed 3      # some targets; the report of a defect names target and seed
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor

from tqdm import tqdm

from tests.fuzz.socket_targets import LITELLM_SOCKETS
from tests.fuzz.targets import SHARES, TARGETS
from tests.fuzz.worker import Result, fuzz_in_process

#: So many inputs run in one process. Then the next one starts, with the next seed.
_INPUTS_PER_PROCESS = 1000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=2000, help="the number of inputs of a target with share 1")
    parser.add_argument("--litellm", action="store_true")
    parser.add_argument("--only", default="", help="run only targets whose name contains this text")
    parser.add_argument("--seed", type=int, default=0, help="decides which inputs are generated")
    parser.add_argument("--jobs", type=int, default=2, help="the number of processes at a time")
    arguments = parser.parse_args()
    begin = time.monotonic()
    names = [name for name in TARGETS if (name in LITELLM_SOCKETS) == arguments.litellm and arguments.only in name]
    inputs = {name: max(1, round(arguments.inputs * SHARES[name])) for name in names}
    print("| target | inputs | responses | typed errors | lost | CPU, s | memory, MiB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    total = Result()
    with (
        tqdm(total=sum(inputs.values()), unit=" inputs", mininterval=2) as bar,
        ThreadPoolExecutor(arguments.jobs) as pool,
    ):
        runs = {name: _run(pool, name, inputs[name], arguments.seed, bar) for name in names}
        for name, parts in runs.items():
            result = Result()
            for part in parts:
                result.add(part.result())
                result.defects.update(part.result().defects)
            total.add(result)
            for defect in result.defects.values():
                tqdm.write(f"\n{defect}\n", file=sys.stderr)
            counts = " | ".join(f"{count:,}" for count in (result.inputs, result.responses, result.errors, result.lost))
            tqdm.write(f"| {name} | {counts} | {result.cpu:.1f} | {result.memory >> 20} |", file=sys.stdout)
            sys.stdout.flush()
    seconds = time.monotonic() - begin
    print(
        f"\n{total.inputs:,} inputs in {seconds:.0f} s, lost: {total.lost}; at most {total.cpu:.1f} s of processor time"
    )
    print(f"and {total.memory >> 20} MiB of memory for one input")
    return min(total.lost, 1)


def _run(pool: ThreadPoolExecutor, name: str, inputs: int, seed: int, bar: tqdm) -> list[Future[Result]]:
    """Start to run a target, in several processes one after another."""
    sizes = [min(_INPUTS_PER_PROCESS, inputs - start) for start in range(0, inputs, _INPUTS_PER_PROCESS)]
    return [
        pool.submit(fuzz_in_process, name, size, seed + 1000 * number, bar.update) for number, size in enumerate(sizes)
    ]


if __name__ == "__main__":
    sys.exit(main())
