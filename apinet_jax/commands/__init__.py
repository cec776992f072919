"""The commands beside training and evaluation, one file each.

A command is a module with `add_arguments(parser)` and `run(arguments)`; the first paragraph of its
docstring is what `--help` says it does, the rest its examples.
"""

COMMANDS = {
    "sweep": "train a grid of settings over several seeds, and compare",
}
