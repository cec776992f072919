"""Errors, console, paths, hosts, devices and signals: what every other room may use."""
