"""Commands besides training and evaluation, one file each.

A command is a module with `add_arguments(parser)` and `run(arguments)`. Its docstring is what
`--help` prints: what the command does, and examples.
"""

COMMANDS = {
    "audit": "search a folder of photos for wrong labels, near-duplicates and outliers",
    "compare": "say whether two photos show the same class, with a probability",
    "compile_check": "compile for TPUs without having any: does it fit, what does it cost",
    "convert": "convert weights and checkpoints from PyTorch",
    "draw": "draw birds into a folder of photos, to try the program without your own",
    "explain": "why this class and not that one: a picture of a prediction",
    "export": "write a run for other programs: StableHLO, ONNX, the hub, PyTorch",
    "gallery": "add classes to a run from a few photos, without training",
    "job": "train with several processes on this machine, as several hosts would",
    "predict": "name photos: classes with probabilities, or the coarser group that is sure",
    "prepare": "fetch and check a data set, and show what is in it",
    "report": "write the report of a run: one HTML page, and its numbers as CSV",
    "serve": "a page and an endpoint that name, compare and explain photos",
    "sweep": "train a grid of settings over several seeds, and compare",
}
