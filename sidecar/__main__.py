# SPDX-License-Identifier: Apache-2.0
"""Enters the command hermes-nats-sidecar, also as `python -m sidecar`."""

import os
import signal
import types


def main() -> None:
    """Run the command line; SIGTERM and Ctrl-C end it from the first moment on."""
    for descriptor in range(3):  # what is closed would become a socket of ours
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    # `serve` and `demo` have an orderly end in its place; the other commands need none.
    # A KeyboardInterrupt is a traceback in an import, and in a library's lock it is a
    # lock that nobody gives back: a command that hangs.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)  # else we are to ignore it
    if os.getpid() == 1 and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _end)
    from sidecar.cli import main as run  # noqa: PLC0415

    run()


def _end(number: int, _: types.FrameType | None) -> None:
    """Do what a signal does by default, which the kernel spares process 1."""
    os._exit(128 + number)


if __name__ == "__main__":
    main()
