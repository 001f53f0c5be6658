# SPDX-License-Identifier: Apache-2.0
"""The one file for `mn`: `sudo .venv/bin/mn --custom topologies/mn.py --topo two_servers --switch vswitch
--controller orchestrator`, or `… --topo tree,depth=2,fanout=3 --switch vswitch --controller
ryu,ryu.app.simple_switch_13`.

`mn` executes this file and takes its global names: the tables `topos`, `switches`, `hosts`, `controllers` and
`tests` are added to its own, `validate` is called by it, and the names at the end replace its own.
"""

from topologies.checks import iperf3
from topologies.controllers import Orchestrator, Ryu
from topologies.net import (
    LabControlNet,
    LabNet,
    build_topo,
    check_tests,
    clean_up,
    custom_class,
    default_controller,
    install,
    reported,
)
from topologies.nodes import VM, VSwitch
from topologies.prompt import LabCLI
from topologies.topos import TOPOLOGIES

topos = TOPOLOGIES
switches = {"vswitch": VSwitch}
hosts = {"vm": VM}
controllers = {"orchestrator": Orchestrator, "ryu": Ryu}
tests = {"iperf3": reported(iperf3)}

validate = check_tests
CLI = LabCLI
Mininet = LabNet
MininetWithControlNet = LabControlNet
findController = default_controller
customClass, buildTopo = custom_class, build_topo
cleanup = clean_up
install()
