"""The four ways to decode, by name."""

from __future__ import annotations

from enum import StrEnum


class Mode(StrEnum):
    """Which of Medusa and APAR take part.

    Raises:
        ValueError: for a name that is none of the four.
    """

    AR = "ar"
    MEDUSA = "medusa"
    APAR = "apar"
    MEDUSA_APAR = "medusa-apar"

    @property
    def medusa(self) -> bool:
        """Whether Medusa heads draft."""
        return self in (Mode.MEDUSA, Mode.MEDUSA_APAR)

    @property
    def apar(self) -> bool:
        """Whether the model may fork."""
        return self in (Mode.APAR, Mode.MEDUSA_APAR)

    @classmethod
    def _missing_(cls, value: object) -> Mode:
        raise ValueError(f"mode={value!r} is unknown; choose one of {', '.join(cls)}")
