"""Why this class and not that one."""
