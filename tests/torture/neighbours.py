"""Hostile neighbours."""

from __future__ import annotations

import neighbours_channel
import neighbours_floods

SCENARIOS = (*neighbours_channel.SCENARIOS, *neighbours_floods.SCENARIOS)
