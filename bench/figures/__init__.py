# SPDX-License-Identifier: MIT
"""The paper's evaluation, measured on this system: experiments, figures and one page."""
