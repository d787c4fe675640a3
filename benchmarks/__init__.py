"""Measurements of speed: `tox -e bench` runs them all and writes docs/performance.md.

Every figure is a ratio of two times that were taken in one run on one machine; no time is ever asserted.
"""
