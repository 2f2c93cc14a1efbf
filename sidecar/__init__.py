# SPDX-License-Identifier: Apache-2.0
"""A sidecar that gives Hermes a NATS JetStream message bus."""

TYPE_CHECKING = False  # as typing has it, whose import takes 10 ms
if TYPE_CHECKING:
    __version__: str
else:

    def __getattr__(name: str) -> str:
        """Look up the version when it is asked for, which takes 50 ms.

        Until `__main__` runs, process 1 of a container takes no signal.
        """
        if name != "__version__":
            raise AttributeError(name)
        from importlib.metadata import version  # noqa: PLC0415

        return version("hermes-nats-sidecar")
