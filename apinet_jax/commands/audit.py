"""Searches a folder of photos for wrong labels, near-duplicates and outliers, without a run.

Pretrained weights compute a feature of each photo. A photo is suspicious if its nearest neighbours
have another label, if it is almost equal to one of another split or class, or if it resembles no
other photo. An HTML page shows the most suspicious ones; CSV files list all.

Examples:
  audit.html and the folder audit-tables:
  python -m apinet_jax audit PHOTOS --features=timm:resnet50.tv_in1k

  python -m apinet_jax audit PHOTOS --features=squeezenet1_1.safetensors --out=birds.html

For a trained run the report contains the same audit: python -m apinet_jax report RUN.
"""

import argparse
from pathlib import Path

from apinet_jax.data.catalog import open_dataset
from apinet_jax.data.records.walk import escaped
from apinet_jax.system.console import print_result
from apinet_jax.system.errors import InputError
from apinet_jax.system.paths import is_remote, local_path, to_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("data", metavar="DATA", help="the folder of photos, as for training")
    parser.add_argument(
        "--features",
        metavar="WEIGHTS",
        required=True,
        help="pretrained weights: a safetensors file, a folder with one, or timm:NAME",
    )
    parser.add_argument("--trunk", help="trunk of the weights; recognised by default")
    parser.add_argument(
        "--skip-unreadable", action="store_true", help="leave broken images out instead of stopping"
    )
    parser.add_argument(
        "--out",
        metavar="FILE.html",
        type=local_path,
        default=Path("audit.html"),
        help="the page; audit.html by default",
    )


def run(arguments: argparse.Namespace) -> None:
    """Audit the photos, write page and tables, and print what was found.

    Raises:
        InputError: If photos or weights are missing or cannot be read.
        RunError: If a file cannot be written, or the device runs out of memory.
    """
    from apinet_jax.answers.audits.audit import audit_dataset
    from apinet_jax.answers.report.files import audit_lines, check_page, file_lines, write_audit
    from apinet_jax.pretrained_trunk import load_trunk
    from apinet_jax.system.compilation_cache import enable_compilation_cache

    folder = to_path(arguments.data)
    if not is_remote(folder) and not folder.is_dir():
        raise InputError(f"The folder of photos {folder} does not exist. Check its name.")
    check_page(arguments.out)
    enable_compilation_cache()
    trunk = load_trunk(arguments.features, arguments.trunk)
    dataset = open_dataset("folder", arguments.data, skip_unreadable=arguments.skip_unreadable)
    found = audit_dataset(dataset, trunk)
    name = escaped(folder.name if is_remote(folder) else folder.resolve().name)
    files = write_audit(found, dataset, trunk, f"Audit of {name}", arguments.out)
    print_result([f"Audit of {name}", *audit_lines(found), *file_lines(files)])
