"""Hostile neighbours: they write garbage, flood, remove and replace, and are other users.

What each may bring about, and what not, is said in its module and in docs/reliability.md.
"""

from __future__ import annotations

import neighbours_changes
import neighbours_channel
import neighbours_floods
import neighbours_names
import neighbours_users

SCENARIOS = (
    *neighbours_channel.SCENARIOS,
    *neighbours_floods.SCENARIOS,
    *neighbours_names.SCENARIOS,
    *neighbours_users.SCENARIOS,
    *neighbours_changes.SCENARIOS,
)
