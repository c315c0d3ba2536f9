"""Colours of the modes, and of what stands beside them, in every picture."""

from __future__ import annotations

from medusa_apar.modes import Mode

from ..decoding.peers import Peer
from ..decoding.variants import FIXED_TREE

COLOURS: dict[str, str] = {
    Mode.AR: "#333333",
    Peer.GENERATE: "#999999",
    Peer.PROMPT_LOOKUP: "#CC79A7",
    Peer.ASSISTED: "#D55E00",
    FIXED_TREE: "#0072B2",
    Mode.MEDUSA: "#56B4E9",
    Mode.APAR: "#E69F00",
    Mode.MEDUSA_APAR: "#009E73",
}
