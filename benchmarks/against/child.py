"""One side of a case in a process: a line on standard input asks for one call.

    python -m benchmarks.against.child VARIANT CASE

Answers each line with the seconds and the processor seconds of the call; the first answer says that
it is ready, or why it cannot be.
"""

import importlib
import json
import os
import resource
import sys
import time

from benchmarks.against.cases import ALL_CASES


def main() -> None:
    variant, name = sys.argv[1:]
    case = ALL_CASES[name]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing else is printed there, by commands that a side starts either

    def answer(**values: object) -> None:
        print(json.dumps(values), file=answers, flush=True)

    try:
        side = importlib.import_module(
            f"benchmarks.against.{'ours' if variant == 'ours' else 'theirs'}"
        )
        call = side.make_call(case, variant)
        call()  # compiles
    except Exception as error:
        answer(failed=f"{type(error).__name__}: {error}".splitlines()[0])
        return
    answer(ready=True)
    for _ in sys.stdin:
        start, processor = time.perf_counter(), time.process_time()
        measured = call()
        seconds, processor = time.perf_counter() - start, time.process_time() - processor
        if isinstance(measured, float):  # the call prepared something first
            seconds = measured
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MiB
        answer(seconds=seconds, processor=processor, peak=peak)


if __name__ == "__main__":
    main()
