"""What a model predicts: by time, from the current mid, at four horizons. See DESIGN section 4."""

from __future__ import annotations

from typing import Final

from market.clock import NS_PER_MS

HORIZONS_NS: Final = (50 * NS_PER_MS, 100 * NS_PER_MS, 500 * NS_PER_MS, 1000 * NS_PER_MS)
HORIZON_NAMES: Final = ("50ms", "100ms", "500ms", "1s")
N_OUTPUTS: Final = 5 * len(HORIZONS_NS)  # laid out as serving.manifest.Heads says

DOWN: Final = 0
NONE: Final = 1
UP: Final = 2
UNKNOWN: Final = -1  # the horizon runs past the end of the segment
