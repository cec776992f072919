"""The runs that these tests share."""

from run_fixtures import *  # noqa: F403
