"""The models one process serves, found by the name a request gives."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ...runtime.artifact.manifest import Manifest
from ...runtime.model import Model
from ..errors import ApiError
from .abilities import abilities_of


@dataclass(slots=True)
class Served:
    """One artifact under its names. `model` is opened by `Registry.open`, before the server is ready."""

    names: tuple[str, ...]
    open: Callable[[], Model]
    aliases: tuple[str, ...] = ()
    """Answered, but not listed: the hub id of the checkpoint."""
    parent: Served | None = None
    """Of a LoRA adapter: the model it adapts."""
    root: str | None = None
    """Of a LoRA adapter: where it was said to be."""
    running: int = 0
    """Requests that are being answered; counted in the event loop."""
    model: Model = field(init=False)
    abilities: frozenset[str] = frozenset()
    """Words of abilities.py; set when the model is listed in the registry."""

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def told_name(self) -> str:
        """What answers say in `model`: for an adapter its base, as in vLLM."""
        return self.name if self.parent is None else self.parent.name

    @property
    def manifest(self) -> Manifest:
        return self.model.manifest

    def can(self, ability: str) -> bool:
        return ability in self.abilities


class Registry:
    """`ready` is set once every model is open and warm. After that it changes in the event loop
    only (adapters come and go)."""

    def __init__(self, models: list[Served], *, check_names: bool = True) -> None:
        self.models = models
        """Adapters stand behind all others."""
        self.abilities: frozenset[str] = frozenset()
        """Of any of the models."""
        self.check_names = check_names
        self.ready = threading.Event()
        self._by_name: dict[str, Served] = {}

    def __iter__(self) -> Iterator[Served]:
        return iter(self.models)

    def open(self) -> None:
        """Opens and warms every model; slow."""
        for served in self.models:
            served.model = served.open()
            served.model.warm_up()
            if served.parent is None:
                served.aliases = (*served.aliases, served.model.name, served.manifest.source.checkpoint)
        self._list(self.models)
        self.ready.set()

    @property
    def adapters(self) -> list[Served]:
        return [served for served in self.models if served.parent is not None]

    def adapter(self, name: str) -> Served | None:
        return next((served for served in self.adapters if served.name == name), None)

    def put(self, served: Served) -> Served | None:
        """Adds an opened adapter; answers the one of its name that it takes the place of, which
        is the caller's to close."""
        replaced = self.adapter(served.name)
        self._list([*(one for one in self.models if one is not replaced), served])
        return replaced

    def remove(self, served: Served) -> None:
        """New requests no longer find it; closing it is the caller's."""
        self._list([one for one in self.models if one is not served])

    def _list(self, models: list[Served]) -> None:
        by_name: dict[str, Served] = {}
        # Names given by the operator win over aliases, the first artifact over later ones.
        for names in ([served.names for served in models], [served.aliases for served in models]):
            for served, own in zip(models, names, strict=True):
                for name in own:
                    by_name.setdefault(name, served)
        for served in models:
            served.abilities = abilities_of(served.model)
        self.models, self._by_name = models, by_name
        self.abilities = frozenset[str]().union(*(served.abilities for served in models))

    def close(self) -> None:
        for served in self.models:
            if hasattr(served, "model"):
                served.model.close()

    def find(self, name: str | None, *, param: str | None = None) -> Served:
        """The model of that name, the first one for None and "". Raises ApiError 404."""
        found = self._by_name.get(name) if name else None
        if not name or (not self.check_names and (found is None or found.parent is None)):
            return self.models[0]
        if found is None:
            known = ", ".join(name for served in self.models for name in served.names)
            # A name is the caller's own text: shortened, it cannot flood an answer or a log.
            raise ApiError(
                404, (f"The model `{name[:200]}` does not exist. Valid aliases: {known}."), param=param
            )
        return found

    def able(self, name: str | None, ability: str, what: str) -> Served:
        """`find`, among models of that ability. A request that names no model gets the first
        able one, never an adapter."""
        if not name:
            return next(
                (served for served in self.models if served.parent is None and served.can(ability)),
                self.models[0],
            )
        served = self.find(name)
        if not served.can(ability):
            able = ", ".join(other.name for other in self.models if other.can(ability))
            raise ApiError(
                400,
                (f"The model `{served.name}` does not support the {what} API; these do: {able}"),
                param="model",
            )
        return served
