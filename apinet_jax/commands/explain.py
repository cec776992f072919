r"""Explains a prediction: why this class, and not that one.

Writes a picture and, next to it, its figures as FILE.png.json. The picture shows the photo; the
contrast map, red where the photo speaks for the predicted class and blue where it speaks for the
rival; and the nearest training photos of both classes. For an API-Net run, the maps below each
training photo show what the gates add to the contrast when both photos are compared.

The map is exact: its cells and the biases sum to the difference of the two logits. docs/answers.md
says how well it finds the parts in which classes differ.

Examples:
  against the most probable rival:
  python -m apinet_jax explain runs/birds photo.jpg

  against a class of your choice, with five training photos of each class:
  python -m apinet_jax explain runs/birds photo.jpg --against "Laysan Albatross" \
      --out why.png --exemplars 5
"""

import argparse
import json
from pathlib import Path

from apinet_jax.answers.explanation.explain import explanation_figures
from apinet_jax.answers.explanation.picture import draw_explanation
from apinet_jax.answers.photo_stream import warn_of_whole_photos
from apinet_jax.answers.trained_run import load
from apinet_jax.data.records.walk import escaped
from apinet_jax.system.compilation_cache import enable_compilation_cache
from apinet_jax.system.console import print_result, say
from apinet_jax.system.errors import InputError
from apinet_jax.system.paths import local_path, to_path, write_atomically


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("run", metavar="RUN", help="workdir or checkpoint; may be in a bucket")
    parser.add_argument("photo", metavar="PHOTO", help="the photo; may be in a bucket")
    parser.add_argument(
        "--against", metavar="CLASS", help="the rival class; the most probable one by default"
    )
    parser.add_argument(
        "--out",
        type=local_path,
        metavar="FILE.png",
        help="the picture; PHOTO-explained.png in the current folder by default",
    )
    parser.add_argument(
        "--exemplars",
        type=int,
        default=3,
        metavar="N",
        help="training photos of each class (default: 3; 0 for none)",
    )
    parser.add_argument("--checkpoint", help="last, best or a step")
    parser.add_argument("--data-dir", help="where the photos of the run are stored now")


def run(arguments: argparse.Namespace) -> None:
    """Explain a prediction, write picture and JSON, and print the figures.

    Raises:
        InputError: If run, photo or class do not exist, or the files cannot be written there.
        RunError: If a file cannot be written.
    """
    name = to_path(arguments.photo).name
    out = arguments.out or Path(f"{Path(name).stem}-explained.png")
    if out.suffix.lower() != ".png":
        raise InputError(f"--out={out} is not a PNG file. Name one that ends with .png.")
    if not out.parent.is_dir():
        raise InputError(f"There is no folder {out.parent} for the picture.")
    if not 0 <= arguments.exemplars <= 12:
        raise InputError(f"--exemplars={arguments.exemplars} is not between 0 and 12.")
    enable_compilation_cache()
    trained = load(arguments.run, arguments.checkpoint, data_dir=arguments.data_dir)
    warn_of_whole_photos(trained.config)
    found = trained.explain(arguments.photo, arguments.against, exemplars=arguments.exemplars)
    if found.no_exemplars is not None and arguments.exemplars:
        say(f"No training photos are shown: {found.no_exemplars}")
    write_atomically(out, draw_explanation(found, name))
    figures = {
        "photo": escaped(arguments.photo),
        **explanation_figures(found),
        "exemplars": [
            {
                "class_name": one.class_name,
                "file_name": one.file_name,
                "similarity": one.similarity,
            }
            for one in found.exemplars
        ],
        "no_exemplars": found.no_exemplars,
        "provenance": trained.provenance._asdict(),
    }
    figures_file = out.with_name(f"{out.name}.json")  # of no other program, as package.json is
    write_atomically(figures_file, json.dumps(figures, indent=2) + "\n")
    print_result(
        [
            f"predicted    {found.predicted} ({found.probability:.2f})",
            f"against      {found.against} ({found.rival_probability:.2f})",
            f"difference   {found.difference:+.3f} = {found.contrast.sum():+.3f} (sum of the map) "
            f"{found.bias:+.3f} ({found.bias_source})",
            *(
                f"like         {one.file_name} ({one.class_name}, cosine {one.similarity:.2f})"
                for one in found.exemplars
            ),
            f"picture      {out}",
            f"figures      {figures_file}",
        ]
    )
