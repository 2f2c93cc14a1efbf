# SPDX-License-Identifier: Apache-2.0
"""What is known and what follows from it: no input, no output."""
