# SPDX-License-Identifier: Apache-2.0
"""Translations of late, for keys that agree with theirs in every bit that was looked at ("megaflows")."""

from __future__ import annotations

from vswitch.agent.fields import Masks
from vswitch.agent.pipeline import Thing, Translation
from vswitch.flow import FlowKey

MAX_TRANSLATIONS = 20_000
MAX_MASKS = 32
"""Beyond, all are forgotten: a look-up asks once for each set of masks."""


class Memo:
    """Valid until anything changes that translations depend on; then clear() it."""

    def __init__(self) -> None:
        self._by_masks: dict[Masks, dict[tuple[int, ...], Translation]] = {}
        self._things: set[Thing] = set()
        self._size = 0

    def find(self, key: FlowKey) -> Translation | None:
        for masks, translations in self._by_masks.items():
            translation = translations.get(tuple([key[index] & mask for index, mask in masks]))
            if translation is not None:
                return translation
        return None

    def add(self, key: FlowKey, translation: Translation) -> None:
        if self._size >= MAX_TRANSLATIONS or len(self._by_masks) >= MAX_MASKS:
            self.clear()
        masks = translation.masks
        place = tuple([key[index] & mask for index, mask in masks])
        self._by_masks.setdefault(masks, {})[place] = translation
        self._things |= translation.things
        self._size += 1

    def depends_on(self, thing: Thing) -> bool:
        """May a translation depend on it?"""
        return thing in self._things

    def clear(self) -> None:
        self._by_masks.clear()
        self._things.clear()
        self._size = 0
