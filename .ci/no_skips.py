"""A pytest plugin under which a test that was skipped fails the run: `pytest -p no_skips`."""

import pytest


def _skipped(config: pytest.Config) -> list:
    return config.pluginmanager.get_plugin("terminalreporter").stats.get("skipped", [])


def pytest_terminal_summary(terminalreporter, config):
    """Says so before the summary line."""
    if skipped := _skipped(config):
        terminalreporter.write_line(
            f"error: {len(skipped)} skipped, where nothing may be", red=True
        )


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session):
    """Turns success into failure."""
    if session.exitstatus == pytest.ExitCode.OK and _skipped(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
