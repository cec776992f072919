"""The runs that these tests share."""

from run_fixtures import (  # noqa: F401
    once,
    own_workdir,
    photos,
    run,
    softmax_run,
    softmax_workdir,
    trained,
    uncalibrated_workdir,
    workdir,
)
