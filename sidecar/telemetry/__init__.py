# SPDX-License-Identifier: Apache-2.0
"""What the daemon tells of itself: log lines and metrics."""
