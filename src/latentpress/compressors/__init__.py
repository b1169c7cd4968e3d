"""Compressors by name."""

from __future__ import annotations

from latentpress.compressors.base import Added, Compressor, Extracted, Length, Prepared, Ratio, Size
from latentpress.compressors.first_tokens import FirstTokens
from latentpress.compressors.mean_pooling import MeanPooling

COMPRESSORS: dict[str, type[Compressor]] = {
    MeanPooling.name: MeanPooling,
    FirstTokens.name: FirstTokens,
}

__all__ = [
    "COMPRESSORS",
    "Added",
    "Compressor",
    "Extracted",
    "FirstTokens",
    "Length",
    "MeanPooling",
    "Prepared",
    "Ratio",
    "Size",
]
