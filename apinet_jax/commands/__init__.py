"""The commands beside training and evaluation, one file each.

A command is a module with `add_arguments(parser)` and `run(arguments)`; the first paragraph of its
docstring is what `--help` says it does, the rest its examples.
"""

COMMANDS = {
    "compile_check": "compile for TPUs that are not there: does it fit, what does it cost",
    "convert": "weights and checkpoints from PyTorch to here, and back",
    "job": "train as several processes on this machine, as several hosts would",
    "prepare": "fetch and check a data set, and show what is in it",
    "sweep": "train a grid of settings over several seeds, and compare",
}
