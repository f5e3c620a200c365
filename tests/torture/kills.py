"""The kill storm: processes are killed and stopped at random moments, in all roles, at every object.

See docs/channels.md, docs/semaphores.md and others for what is promised about deaths.
"""

from __future__ import annotations

import kills_changes
import kills_holders
import kills_lives
import kills_traffic

SCENARIOS = (
    *kills_lives.SCENARIOS,
    *kills_traffic.SCENARIOS,
    *kills_holders.SCENARIOS,
    *kills_changes.SCENARIOS,
)
