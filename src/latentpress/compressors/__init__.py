"""Compressors by name."""

from __future__ import annotations

from latentpress.compressors.base import Added, Compressor, Extracted, Length, NoSettings, Prepared, Ratio, Shape, Size
from latentpress.compressors.compression_tokens import CompressionTokens
from latentpress.compressors.comprexit.compressor import ComprExIT
from latentpress.compressors.first_tokens import FirstTokens
from latentpress.compressors.kv_pooling import KvPooling
from latentpress.compressors.last_tokens import LastTokens
from latentpress.compressors.mean_pooling import MeanPooling

COMPRESSORS: dict[str, type[Compressor]] = {
    MeanPooling.name: MeanPooling,
    LastTokens.name: LastTokens,
    CompressionTokens.name: CompressionTokens,
    ComprExIT.name: ComprExIT,
    KvPooling.name: KvPooling,
    FirstTokens.name: FirstTokens,
}

__all__ = [
    "COMPRESSORS",
    "Added",
    "ComprExIT",
    "CompressionTokens",
    "Compressor",
    "Extracted",
    "FirstTokens",
    "KvPooling",
    "LastTokens",
    "Length",
    "MeanPooling",
    "NoSettings",
    "Prepared",
    "Ratio",
    "Shape",
    "Size",
]
