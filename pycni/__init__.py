"""CNI plugins in Python: the skeleton library.

A plugin author needs `Plugin`, `Request`, `Context`, `Result` and the other types, and `CNIError`. Importing
this package loads no third-party package and nothing that a plugin process of some milliseconds can spare.
"""

from __future__ import annotations

__version__ = "0.1.0"
