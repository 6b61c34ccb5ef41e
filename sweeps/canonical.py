"""Keys by content: the same definition gives the same key on every machine."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def key_of(value: Any) -> str:
    """20 hexadecimal digits of the sha256 of ``value``'s canonical JSON.

    ValueError if it holds NaN or infinity, TypeError if it is not JSON.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:20]
