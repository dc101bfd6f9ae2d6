"""`poolrt.ray.app`: the application of Ray Serve, from Python, from `serve run`, or from a YAML file."""

from __future__ import annotations

import inspect
import logging
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ...runtime import extras
from ...runtime.errors import InputError, PoolrtError
from ...runtime.store import resolving
from ...runtime.store.addresses import is_address
from ..cli import parse, settings_of
from ..settings import Settings
from .artifacts import NONE, Entry, entries
from .front import Front
from .replica import Replica

ENVIRONMENT = "POOLRT_RAY_"
ROUTER = "poolrt.serve.ray.sticky.PrefixRouter"
ELSEWHERE = {
    "watch_folder": "replicas take other artifacts from `user_config` (docs/ray.md)",
    "allow_artifact_loading": "replicas take other artifacts from `user_config` (docs/ray.md)",
    "batch_folder": "batch files belong to one server; for bulk jobs see `poolrt embed-dataset --ray`",
    "api_server_count": "Serve starts the processes; give replicas or max_replicas",
    "uds": "Serve has the port; see `http_options` of Serve",
    "ssl_keyfile": "Serve has the port; see `http_options` of Serve",
}
"""Flags of `poolrt serve` that would do nothing in a replica -> what does it."""
log = logging.getLogger("poolrt.serve")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How Serve runs the replicas. Each may also be an argument of `serve run`, or a variable
    `POOLRT_RAY_MAX_REPLICAS`."""

    replicas: int | None = None
    """None: between `min_replicas` and `max_replicas`, as many as the load asks for."""
    min_replicas: int = 1
    max_replicas: int = 4
    target_ongoing_requests: float = 16
    """Requests that a replica should have at a time; above it replicas are added."""
    max_ongoing_requests: int = 128
    """That it may have; more wait in the front."""
    max_queued_requests: int = -1
    """That may wait in a front; beyond it 429. -1: no limit."""
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    models_per_replica: int = 3
    """Of several artifacts, those that a replica holds at a time."""
    sticky: bool = False
    """Requests that begin alike go to one replica: for decoders, whose prefixes are then cached there."""
    retries: int = 3
    """Replicas that are asked for a request whose replica died."""
    fronts: int = 2
    front_cpus: float = 0.1


def app(artifacts: Any = None, flags: Sequence[str] | str | None = None, **options: Any) -> Any:
    """An application of Ray Serve, for `serve.run`. Raises InputError for options and flags that are wrong.

    Args:
        artifacts: one, several, or name -> artifact. A mapping may also have the other arguments beside
            `artifacts`, as `serve run poolrt.ray:app artifacts=... max_replicas=8` passes them; what is
            missing comes from variables (POOLRT_RAY_ARTIFACTS, ...).
        flags: of `poolrt serve`, for every replica.
        options: fields of `Options`, and `autoscaling_config` for more of Serve's own settings.
    """
    extras.require("ray")
    from ray import serve  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]

    values = dict(options)
    is_built = isinstance(artifacts, Mapping) and (not artifacts or bool(set(artifacts) & _names()))
    if is_built:
        values = {**artifacts, **values}
        artifacts, spelled = values.pop("artifacts", None), values.pop("flags", None)
        flags = spelled if flags is None else flags
    if artifacts is None:
        artifacts = os.environ.get(f"{ENVIRONMENT}ARTIFACTS")
    named = entries(artifacts)
    if not named and not (is_built and _in_task()):  # a config file may have them in user_config
        raise InputError(NONE)
    for entry in named:
        if (missing := _missing(entry.artifact)) is not None:
            log.warning("%s; replicas look for it on their own machines", missing)
    spelled = flags if flags is not None else os.environ.get(f"{ENVIRONMENT}FLAGS", "")
    flags = shlex.split(spelled) if isinstance(spelled, str) else list(spelled)
    scaling = dict(values.pop("autoscaling_config", None) or {})
    chosen = _options(values)
    settings = _settings(flags)
    if not chosen.num_gpus and "--threads" not in flags:
        flags = [*flags, "--threads", str(max(1, int(chosen.num_cpus)))]
    more: dict[str, Any] = {"num_replicas": chosen.replicas}
    if chosen.replicas is None:
        more = {
            "autoscaling_config": {
                "min_replicas": chosen.min_replicas,
                "max_replicas": chosen.max_replicas,
                "target_ongoing_requests": chosen.target_ongoing_requests,
            }
            | scaling
        }
    if chosen.sticky:
        more["request_router_config"] = {"request_router_class": ROUTER}
    actor = {"num_cpus": chosen.num_cpus} | ({"num_gpus": chosen.num_gpus} if chosen.num_gpus else {})
    backend: Any = serve.deployment(
        Replica,
        name="poolrt",
        max_ongoing_requests=chosen.max_ongoing_requests,
        max_queued_requests=chosen.max_queued_requests,
        graceful_shutdown_timeout_s=settings.shutdown_timeout_s,
        health_check_period_s=10,
        health_check_timeout_s=30,
        user_config={"artifacts": _plain(named)},
        ray_actor_options=actor,
        **more,
    )
    front: Any = serve.deployment(
        Front,
        name="front",
        num_replicas=chosen.fronts,
        max_ongoing_requests=10_000,
        ray_actor_options={"num_cpus": chosen.front_cpus},
    )
    # The artifacts are in `user_config` alone: Serve restarts replicas whose other arguments change.
    replicas = backend.bind(flags, chosen.models_per_replica)
    return front.bind(replicas, chosen.retries, settings.max_body_bytes)


# `serve run` takes functions of one parameter alone, and passes a dict.
app.__signature__ = inspect.Signature(  # pyright: ignore[reportFunctionMemberAccess]
    [inspect.Parameter("artifacts", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
)


def build(arguments: dict[str, Any]) -> Any:
    """The same for `serve run poolrt.ray:build artifacts=a,b flags='--max-model-len 512'`, and for the `args`
    of a Serve config file."""
    return app(arguments)


def _in_task() -> bool:
    """Whether Serve reads a config file, which it does in a task of Ray."""
    import ray  # pyright: ignore[reportMissingImports]

    return bool(ray.is_initialized())  # pyright: ignore[reportAttributeAccessIssue]


def _names() -> set[str]:
    return {field.name for field in fields(Options)} | {"autoscaling_config", "artifacts", "flags"}


def _plain(named: Sequence[Entry]) -> list[str]:
    """The artifacts as a `user_config` spells them."""
    return [spelled for entry in named for spelled in _spelled(entry)]


def _spelled(entry: Entry) -> list[str]:
    return [f"{name}={entry.artifact}" for name in entry.names] or [entry.artifact]


def _missing(artifact: str) -> str | None:
    """Why an artifact cannot be found on this machine; None: it can, or its address is looked up later."""
    try:
        if is_address(artifact) or resolving.artifact(artifact).exists():
            return None
    except PoolrtError as error:
        return str(error)
    return f"{artifact}: no such folder"


def _settings(flags: Sequence[str]) -> Settings:
    """The settings of replicas. Raises InputError for flags that are wrong, or mean nothing to a replica."""
    parsed = parse(["ARTIFACT", *flags])[0]
    for name, instead in ELSEWHERE.items():
        if parsed.values[name]:
            raise InputError(f"--{name.replace('_', '-')} has no effect on Ray Serve: {instead}")
    return settings_of(parsed)


def _options(values: Mapping[str, Any]) -> Options:
    """Options, of which some come as text, from a command line or the environment. Raises InputError."""
    known = _names() - {"artifacts", "flags"}
    if unknown := [name for name in values if name not in known]:
        raise InputError(f"no such option: {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    chosen: dict[str, Any] = {}
    for field in fields(Options):
        value = values.get(field.name)
        if value is None:
            value = os.environ.get(f"{ENVIRONMENT}{field.name.upper()}")
        if value is not None:
            chosen[field.name] = _number(field.name, value, field.default)
    return Options(**chosen)


def _number(name: str, value: Any, default: Any) -> Any:
    """Raises InputError."""
    text = str(value).strip().lower()
    if isinstance(default, bool):
        return text in ("1", "true", "yes", "on")
    try:
        return int(text) if default is None or isinstance(default, int) else float(text)
    except ValueError:
        raise InputError(f"{name} is {value!r}, expected a number", field=name) from None
