"""Compressors by name."""

from __future__ import annotations

from latentpress.compressors.base import Compressor, Extracted, Length, Ratio, Size
from latentpress.compressors.first_tokens import FirstTokens
from latentpress.compressors.mean_pooling import MeanPooling

COMPRESSORS: dict[str, type[Compressor]] = {
    MeanPooling.name: MeanPooling,
    FirstTokens.name: FirstTokens,
}

__all__ = ["COMPRESSORS", "Compressor", "Extracted", "FirstTokens", "Length", "MeanPooling", "Ratio", "Size"]
