"""Runs the daemon in the foreground."""

import asyncio
import os
import sys
from collections.abc import Sequence

from flanneld_py.daemon.options import parse_options, usage
from flanneld_py.errors import UsageError
from flanneld_py.observe.log import configure
from flanneld_py.version import VERSION


def run(argv: Sequence[str]) -> int:
    """Until SIGTERM or SIGINT: 0. FlannelError: what ends the daemon."""
    options = parse_options(argv, os.environ)
    if options.help:
        print(usage(), end="")
        return 0
    if options.version:
        print(f"flanneld {VERSION}")
        return 0
    if os.geteuid() != 0:
        raise UsageError("flanneld programs the kernel's network and needs root", hint="start it with sudo")
    configure(options.v, options.log_format)
    # Not before the flags are known to be good: these cost a quarter of a second.
    from flanneld_py.daemon.app import serve
    from flanneld_py.eventloop import new_event_loop

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(serve(options, os.environ))
    sys.stderr.flush()
    return 0
