# SPDX-License-Identifier: Apache-2.0
"""Enters the command hermes-nats-sidecar, also as `python -m sidecar`."""

import signal


def main() -> None:
    """Run the command line; Ctrl-C ends it quietly from the first moment on."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:  # else we are to ignore it
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # The imports take most of a second, and a KeyboardInterrupt there is a traceback.
    from sidecar.cli import main as run  # noqa: PLC0415

    signal.signal(signal.SIGINT, handler)
    run()


if __name__ == "__main__":
    main()
