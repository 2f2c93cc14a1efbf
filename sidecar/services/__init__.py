# SPDX-License-Identifier: Apache-2.0
"""What the daemon does: publish, read, watch the retention."""
