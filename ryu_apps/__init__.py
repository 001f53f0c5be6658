# SPDX-License-Identifier: Apache-2.0
"""The controller: an intent file, the rules that follow from it, and the Ryu application that keeps
switches so."""
