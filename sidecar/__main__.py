# SPDX-License-Identifier: Apache-2.0
"""python -m sidecar is the command hermes-nats-sidecar."""

from sidecar.cli import main

main()
