"""Numbers of a page as one compressed block: columns of typed arrays, little-endian, one after another.

The block is gzip in base64, which browsers unpack without a library (`DecompressionStream`). Each column has an entry
`{"type", "offset", "length"}` in the header, offsets in bytes, aligned to eight.
"""

from __future__ import annotations

import base64
import gzip
from typing import Any

import numpy as np

__all__ = ["Columns"]

_TYPES = {"f4": "Float32Array", "u4": "Uint32Array", "i4": "Int32Array", "u1": "Uint8Array", "i1": "Int8Array"}
_ALIGNMENT = 8  # bytes: a typed array must start at a multiple of its item size
_LEVEL = 6  # of gzip: 9 takes three times as long for one percent less


class Columns:
    """Collects named columns.

    >>> columns = Columns()
    >>> columns.add("x", np.array([1.0, 2.0]), "f4")
    >>> columns.header
    {'x': {'type': 'Float32Array', 'offset': 0, 'length': 2}}
    """

    def __init__(self) -> None:
        self.header: dict[str, dict[str, Any]] = {}
        self._parts: list[bytes] = []
        self._bytes = 0

    def add(self, name: str, values: np.ndarray, kind: str) -> None:
        """Append a column.

        Args:
            name: its name in the header.
            values: one-dimensional.
            kind: f4, u4, i4, u1 or i1, the numpy type that is stored.
        """
        data = np.ascontiguousarray(values, dtype=f"<{kind}").tobytes()
        data += b"\0" * (-len(data) % _ALIGNMENT)
        self.header[name] = {"type": _TYPES[kind], "offset": self._bytes, "length": len(values)}
        self._parts.append(data)
        self._bytes += len(data)

    def packed(self) -> str:
        """The block in base64; the same columns give the same text."""
        return base64.b64encode(gzip.compress(b"".join(self._parts), _LEVEL, mtime=0)).decode("ascii")
