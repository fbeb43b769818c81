"""The event loop of our processes: uvloop where it is installed, else asyncio's own.

uvloop has no wheels for 32-bit ARM, POWER and S/390; everything works without it.
"""

import asyncio


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A new loop, which the caller closes."""
    try:
        import uvloop  # noqa: PLC0415 - it may be missing
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
