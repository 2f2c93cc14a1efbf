# SPDX-License-Identifier: Apache-2.0
"""A sidecar that gives Hermes a NATS JetStream message bus."""

from importlib.metadata import version

__version__ = version("hermes-nats-sidecar")
