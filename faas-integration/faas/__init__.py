# SPDX-License-Identifier: MIT
"""What the demos and tests of faas-integration share: functions, images, containers, measuring."""
