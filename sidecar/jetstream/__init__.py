# SPDX-License-Identifier: Apache-2.0
"""The edge to NATS: one connection, its life, an own server."""
