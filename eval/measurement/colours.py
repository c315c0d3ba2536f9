"""Colours of the modes, and of what stands beside them, in every picture."""

from __future__ import annotations

from medusa_apar.modes import Mode

from ..decoding.baselines import Baseline
from ..decoding.variants import FIXED_TREE

COLOURS: dict[str, str] = {
    Mode.AR: "#333333",
    Baseline.GENERATE: "#999999",
    Baseline.PROMPT_LOOKUP: "#CC79A7",
    Baseline.ASSISTED: "#D55E00",
    FIXED_TREE: "#0072B2",
    Mode.MEDUSA: "#56B4E9",
    Mode.APAR: "#E69F00",
    Mode.MEDUSA_APAR: "#009E73",
}
