# SPDX-License-Identifier: Apache-2.0
"""What `hermes-nats-sidecar` can do besides serving."""
