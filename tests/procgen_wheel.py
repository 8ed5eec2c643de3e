"""Marks tests that need Procgen's engine, whose wheels do not exist for every machine."""

import importlib.util

import pytest

HERE = importlib.util.find_spec("procgen") is not None and importlib.util.find_spec("gym3") is not None
engine = pytest.mark.skipif(not HERE, reason="Procgen's engine has no wheel for this machine")
