"""The kill storm: processes are killed and stopped at random moments, in all roles, at every object."""

from __future__ import annotations

import lives

SCENARIOS = (*lives.SCENARIOS,)
