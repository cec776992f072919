"""A pytest plugin that turns skipped tests into a failure: `pytest -p no_skips`."""

import pytest


def _skipped(config: pytest.Config) -> list:
    return config.pluginmanager.get_plugin("terminalreporter").stats.get("skipped", [])


def pytest_terminal_summary(terminalreporter, config):
    """Report skipped tests before the summary line."""
    if skipped := _skipped(config):
        terminalreporter.write_line(
            f"error: {len(skipped)} skipped, but no test may be skipped here", red=True
        )


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session):
    """Turn success into failure."""
    if session.exitstatus == pytest.ExitCode.OK and _skipped(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
