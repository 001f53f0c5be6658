# SPDX-License-Identifier: Apache-2.0
"""The controller without Ryu: intent -> desired state of each switch -> difference to what is there. Pure."""
