"""`apinet_jax.main`, slowed down: tests can interrupt steps, evaluations and saves.

A save is slowest before the finished folder gets its final name, and while an older one is
deleted.
"""

import os
import shutil
import time
from functools import wraps

from apinet_jax import evaluation, loop
from apinet_jax.main import entry_point


def slowed(function, seconds, applies=lambda *_: True):
    @wraps(function)
    def slow(*args, **kwargs):
        if applies(*args):
            time.sleep(seconds)
        return function(*args, **kwargs)

    return slow


def is_half_written(path, *_):
    return "orbax-checkpoint-tmp" in str(path)


if __name__ == "__main__":
    os.rename = slowed(os.rename, 0.2, is_half_written)
    os.replace = slowed(os.replace, 0.2, is_half_written)
    shutil.rmtree = slowed(shutil.rmtree, 0.05)
    loop.to_global = slowed(loop.to_global, 0.1)
    evaluation.to_global = slowed(evaluation.to_global, 0.2)
    entry_point()
