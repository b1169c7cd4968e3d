"""Systems that are compared: presses, bounds and peers, by name."""

from latentpress.evaluation.systems.base import Family, Setup, Size, System
from latentpress.evaluation.systems.named import families, make_systems

__all__ = ["Family", "Setup", "Size", "System", "families", "make_systems"]
