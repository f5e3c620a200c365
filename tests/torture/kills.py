"""The kill storm: processes are killed and stopped at random moments, in all roles, at every object."""

from __future__ import annotations

import kills_lives

SCENARIOS = (*kills_lives.SCENARIOS,)
