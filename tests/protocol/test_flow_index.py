# SPDX-License-Identifier: Apache-2.0
"""Which flows a new rule catches: the indexes, in any state of their making, against a look at every flow."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vswitch.agent import fields as f
from vswitch.agent import flow_index
from vswitch.agent.flow_index import FlowIndex
from vswitch.agent.pipeline import Step
from vswitch.flow import FlowKey

OUTSIDE = sum(1 << index for index in range(f.OUTSIDE, f.FIELD_COUNT))
WORD = (1 << 64) - 1
TABLE = SimpleNamespace(table_id=3)
LOOKED_AT = {
    f.IN_PORT: (WORD,),
    f.ETH_DST: (WORD, 0xFF, 1),
    f.IP_DST: (WORD, 2),
    f.L4_DST: (0xFFFF,),
    f.METADATA: (WORD, 1),
    f.IN_PHY_PORT: (WORD,),
}


class Translation:
    """What many flows share: the rule that they went to, and what was written before the table."""

    def __init__(self, generator):
        written = {f.METADATA: (WORD, generator.randrange(3))}
        if generator.random() < 0.3:
            written[f.ETH_DST] = (0xF0, generator.choice((0x10, 0x20)))
        unknown = OUTSIDE | (1 << f.L4_DST if generator.random() < 0.3 else 0)
        rule = generator.choice((None, SimpleNamespace(priority=5)))
        self.written, self.unknown, self.rule = written, unknown, rule
        self.steps = (Step(TABLE, rule, tuple((i, *pair) for i, pair in sorted(written.items())), unknown),)
        self.flows = set()


class Flow:
    def __init__(self, generator, translation):
        values = dict.fromkeys(FlowKey._fields, 0)
        for index in (f.IN_PORT, f.ETH_DST, f.IP_DST, f.L4_DST):
            values[FlowKey._fields[index]] = generator.randrange(4)
        self.key = FlowKey(**values)
        self.translation = translation

    def is_caught(self, rule):
        """Whether the rule catches it: True, False, or None if its key does not tell."""
        loser = self.translation.rule
        if loser is not None and rule.priority <= loser.priority:
            return False
        vector = [*self.key, 0, self.key.in_port]
        for index, (bits, value) in self.translation.written.items():
            vector[index] = vector[index] & ~bits | value
        if any(self.translation.unknown >> index & 1 for index, _mask in rule.masks if index < f.OUTSIDE):
            return None
        pairs = [(i, m, v) for (i, m), v in zip(rule.masks, rule.values, strict=True) if i < f.OUTSIDE]
        return all(vector[index] & mask == value for index, mask, value in pairs)


def new_rule(generator):
    chosen = generator.sample(sorted(LOOKED_AT), generator.randrange(4))
    masks = [(index, generator.choice(LOOKED_AT[index])) for index in sorted(chosen)]
    values = [generator.randrange(4) & mask for _index, mask in masks]
    if generator.random() < 0.2:
        masks, values = [*masks, (f.ARP_OP, 0xFFFF)], [*values, 1]
    priority = generator.choice((1, 5, 9))
    return SimpleNamespace(table_id=3, priority=priority, masks=tuple(masks), values=tuple(values))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Indexes are made from few flows on, of three at a time, and dropped soon."""
    for name, value in (("SMALL", 4), ("BUILD_STEP", 3), ("MAX_INDEXES", 3), ("PATIENCE", 2)):
        monkeypatch.setattr(flow_index, name, value)


@given(st.integers(0, 1 << 32))
def test_a_new_rule_catches_the_flows_that_it_matches(seed):
    generator = random.Random(seed)
    index, flows = FlowIndex(), []
    translations = [Translation(generator) for _ in range(5)]
    rules = [new_rule(generator) for _ in range(4)]
    for _ in range(150):
        event = generator.random()
        if event < 0.45:
            flow = Flow(generator, generator.choice(translations))
            flow.translation.flows.add(flow)
            index.add(flow)
            flows.append(flow)
        elif event < 0.7 and flows:
            flow = flows.pop(generator.randrange(len(flows)))
            flow.translation.flows.remove(flow)
            index.remove(flow)
        else:
            rule = generator.choice(rules)
            caught = list(index.captured_by(rule))
            assert len(caught) == len(set(caught))
            assert set(caught) == {flow for flow in flows if flow.is_caught(rule) is not False}
