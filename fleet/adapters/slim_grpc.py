"""Importing this imports grpc without asyncio and grpc's twin for it: unused here, they are half of the work.

Nothing that fleet imports beside it, in another thread, needs asyncio; the dashboard has imported that long before.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType

# grpcio prints TLS failures to stderr by itself; they are reported by us, once, as a reason.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

_stand_ins = {name: ModuleType(name) for name in ("asyncio", "grpc.aio") if name not in sys.modules}
sys.modules.update(_stand_ins)
try:
    import grpc  # noqa: F401 - while nobody else imports what is stood in for
finally:
    for _name in _stand_ins:
        sys.modules.pop(_name, None)
