"""The training step on a GPU: next to PyTorch, stage by stage, and with images on the device.

    python -m benchmarks.gpu --out=gpu.json
    python -m benchmarks.gpu --classes=2 --images=2 --crop=64 --skip eager channels_last compiled

ResNet-50, 30 x 4 images at 448 in bfloat16. First torch (autocast; eager, with `channels_last`, and
compiled) and ours, in processes that take turns; then the steps of one process: API-Net, softmax,
the frozen stage, and crops cut from images on the GPU, whose places the host draws during the step.
The rate of each is compared with that of a matrix product. It is meant for ten minutes of one GPU,
and needs neither grain nor TFDS.
"""

import argparse
import json
import os
import statistics
from importlib.metadata import version
from pathlib import Path

from apinet_jax.system.console import say

# Before JAX: with its usual share of memory, the processes of both sides would not fit.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax

from apinet_jax.system.mesh import make_mesh
from apinet_jax.system.paths import write_atomically
from benchmarks.against.cases import GPU_CASES
from benchmarks.against_torch import OURS, THEIRS, measure, print_header, print_row
from benchmarks.peaks import copy_rate, product_rate
from benchmarks.step_speed import TimedStep, print_steps, step_config, take_turns

DTYPE = "bfloat16"
STEPS = {
    "API-Net": ("full", ""),
    "softmax": ("full", "method=softmax"),
    "API-Net, frozen stage": ("frozen", ""),
    "API-Net, images on the device": ("full", "data.cache=device"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="a JSON file of all measurements")
    parser.add_argument("--repeats", type=int, default=15, help="(default: %(default)s)")
    parser.add_argument("--classes", type=int, default=30, help="K (default: %(default)s)")
    parser.add_argument("--images", type=int, default=4, help="S (default: %(default)s)")
    parser.add_argument("--crop", type=int, default=448, help="(default: %(default)s)")
    parser.add_argument("--side", type=int, default=8192, help="of the matrices of the product")
    parser.add_argument("--skip", nargs="+", default=[], choices=THEIRS, help="variants of torch")
    options = parser.parse_args()
    report = {"jax": version("jax"), "torch": [], "steps": {}}

    variants = [OURS, *(name for name in THEIRS if name not in options.skip)]
    if len(variants) > 1:
        print_header()
        for case in GPU_CASES:
            report["torch"].append(measure(case, variants, options.repeats, os.cpu_count()))
            print_row(report["torch"][-1])
            _save(options.out, report)

    device = jax.devices()[0].device_kind
    peak, copied = product_rate(DTYPE, options.side), copy_rate(2**30)
    report |= {"device": device, "product": peak, "copy": copied}
    print(f"\n{device}: {peak / 1e12:.1f} TFLOP/s in {DTYPE}, {copied / 1e9:,.0f} GB/s")
    shape = (options.classes, options.images, options.crop, DTYPE)
    steps, mesh = {}, make_mesh(jax.devices()[:1])
    for name, (stage, change) in STEPS.items():
        say(f"Compiling: {name} ...")
        steps[name] = TimedStep(step_config("resnet50", *shape, change), stage, mesh)
    seconds = take_turns(steps, options.repeats)
    print_steps(steps, seconds, options.classes * options.images)
    for name, step in steps.items():
        share = step.flops / statistics.median(seconds[name]) / peak
        print(f"  {name}: {100 * share:.0f} % of the rate of the matrix product")
        report["steps"][name] = {"seconds": seconds[name], "flops": step.flops}
    _save(options.out, report)


def _save(file: Path | None, report: dict) -> None:
    if file:
        write_atomically(file, json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
