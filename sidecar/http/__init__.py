# SPDX-License-Identifier: Apache-2.0
"""The edge to HTTP: sockets, who may come in, routes, the status page."""
