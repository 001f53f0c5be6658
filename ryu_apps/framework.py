# SPDX-License-Identifier: Apache-2.0
"""The one place that imports Ryu or os-ken, its maintained fork: which of them runs decides, Ryu by default.

`run()` starts their application manager; `ryu_apps.shim` takes what it needs of them from here.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from ryu_apps import access, garbage
from vswitch.errors import VSwitchError

RYU, OS_KEN = "ryu", "os_ken"
SILENCE_S = 10.0
"""A client of the REST interface from which nothing comes for so long is disconnected."""

SWITCH_INTERVAL_S = 0.001
"""How long green threads wait for Python while something is computed aside."""


def running() -> str:
    """The framework whose manager runs. (An `except ImportError` would hide what Ryu itself fails to
    import.)"""
    return OS_KEN if f"{OS_KEN}.base.app_manager" in sys.modules else RYU


def installed() -> str | None:
    """The framework to start; None when there is none."""
    return next((name for name in (RYU, OS_KEN) if importlib.util.find_spec(name)), None)


def load(module: str) -> Any:
    """A module of the running framework, e.g. load("lib.hub")."""
    return importlib.import_module(f"{running()}.{module}")


def has(module: str) -> bool:
    """True when the running framework has this module (os-ken has no app.wsgi)."""
    return importlib.util.find_spec(f"{running()}.{module}") is not None


def application_class() -> Any:
    """The base class of applications."""
    return load("base.app_manager").OSKenApp if running() == OS_KEN else load("base.app_manager").RyuApp


def prepare(framework: str) -> None:
    """Make the process ready for the framework's green threads, and the framework for peers that send
    garbage; before imports that make locks."""
    handler = signal.signal(signal.SIGINT, signal.SIG_DFL)  # eventlet swallows an exception while it patches
    warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated")
    if framework == RYU:
        import eventlet.wsgi

        if not hasattr(eventlet.wsgi, "ALREADY_HANDLED"):
            # Ryu 4.34 imports it; eventlet dropped it in 0.30.3. Only an identity is asked of it.
            eventlet.wsgi.ALREADY_HANDLED = object()
    os.environ.setdefault(
        "OSKEN_HUB_TYPE", "eventlet"
    )  # os-ken 4 can do with threads, but misses lost connections
    importlib.import_module(f"{framework}.lib.hub").patch(thread=True)
    web_server = importlib.import_module("eventlet.wsgi")
    web_server.server = functools.partial(web_server.server, socket_timeout=SILENCE_S)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    garbage.guard(framework)
    signal.signal(signal.SIGINT, handler)


def aside(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function gives that takes long and touches nothing of the green threads'; they go on meanwhile.
    One such function runs at a time."""
    with _aside():
        return importlib.import_module("eventlet.tpool").execute(function, *arguments)


@functools.cache
def _aside() -> Any:
    return importlib.import_module("eventlet.semaphore").Semaphore()


def require_applications(framework: str, apps: Sequence[str]) -> None:
    """Raise VSwitchError for a module or file that is not there, or that holds no application; after
    prepare(). The framework would print a traceback, or end without a word."""
    manager = importlib.import_module(f"{framework}.base.app_manager").AppManager.get_instance()
    for app in apps:
        if os.sep in app and not os.path.exists(app):
            raise VSwitchError(f"there is no file {app} (--app)")
        try:
            application = manager.load_app(app)
        except ModuleNotFoundError as error:
            if not error.name or not f"{app}.".startswith(f"{error.name}."):  # what the application imports
                raise
            raise VSwitchError(f"there is no module {error.name} (--app {app})") from None
        except OSError as error:
            raise VSwitchError(f"cannot read {app} (--app): {error.strerror}") from None
        if application is None:
            raise VSwitchError(f"{app} holds no application (--app)")


def require_token(token: access.Token | None) -> None:
    """Let Ryu's web server, which all its applications share, answer those only who show the token."""
    server = importlib.import_module("ryu.app.wsgi").WSGIServer
    start = server.__init__

    def guarded_start(self: Any, application: Any, **config: Any) -> None:
        start(self, access.guarded(application, token), **config)

    server.__init__ = guarded_start


def run(framework: str, apps: list[str], host: str, ofp_port: int, rest_port: int) -> None:
    """Run applications until the process is ended; after prepare()."""
    arguments = ["--ofp-listen-host", host, "--ofp-tcp-listen-port", str(ofp_port)]
    if framework == OS_KEN:
        _run_os_ken(apps, arguments)
    else:
        from ryu.cmd.manager import main

        main(args=[*arguments, "--wsapi-host", host, "--wsapi-port", str(rest_port), *apps], prog="ryu_apps")


def _run_os_ken(apps: list[str], arguments: list[str]) -> None:
    """os-ken 4 has no manager any more; what Ryu's does is not much."""
    manager = importlib.import_module("os_ken.base.app_manager")  # registers the options too
    log = importlib.import_module("os_ken.log")
    log.early_init_log()
    importlib.import_module("os_ken.cfg").CONF(args=arguments, project="os_ken", prog="ryu_apps")
    log.init_log()
    manager.AppManager.run_apps(apps or ["os_ken.controller.ofp_handler"])
