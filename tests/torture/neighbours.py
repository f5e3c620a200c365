"""Hostile neighbours."""

from __future__ import annotations

import neighbours_channel

SCENARIOS = (*neighbours_channel.SCENARIOS,)
