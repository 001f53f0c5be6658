# SPDX-License-Identifier: Apache-2.0
"""The keys of entries that stand for all packets which agree in some bits and which no rule wants."""

from __future__ import annotations

from collections.abc import Callable

from vswitch.agent.fields import Masks
from vswitch.flow import FlowKey
from vswitch.keys import EVERY_BIT
from vswitch.layout import DROP_MASKS


class DropMasks:
    """The drop masks of the datapath, which `announce` is told by their numbers."""

    def __init__(self, announce: Callable[[int, FlowKey], None]) -> None:
        self._announce = announce
        self._masks: dict[Masks, FlowKey] = {}  # by number, which + 1 is their `drop_mask`

    def key(self, key: FlowKey, masks: Masks) -> FlowKey | None:
        """The key of the entry for the packets that agree with `key` under `masks`; None: no mask is free."""
        mask = self._masks.get(masks)
        if mask is None:
            if len(self._masks) == DROP_MASKS:
                return None
            mask = self._add(masks)
        fields = [value & bits for value, bits in zip(key, mask, strict=True)]
        return FlowKey(*fields)._replace(drop_mask=mask.drop_mask)

    def _add(self, masks: Masks) -> FlowKey:
        number = len(self._masks)
        bits = [0] * len(EVERY_BIT)
        for index, looked_at in masks:
            bits[index] = looked_at & EVERY_BIT[index]
        mask = FlowKey(*bits)
        self._announce(number, mask)
        self._masks[masks] = mask._replace(drop_mask=number + 1)
        return self._masks[masks]

    def mask(self, key: FlowKey) -> FlowKey | None:
        """The mask that a key is under, if it is."""
        return list(self._masks.values())[key.drop_mask - 1] if key.drop_mask else None

    def clear(self) -> None:
        """No entry has any of the masks any more."""
        self._masks.clear()
