"""Hostile neighbours."""

from __future__ import annotations

import neighbours_channel
import neighbours_floods
import neighbours_names

SCENARIOS = (*neighbours_channel.SCENARIOS, *neighbours_floods.SCENARIOS, *neighbours_names.SCENARIOS)
