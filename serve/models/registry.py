"""The models that one process serves, by the names that requests use."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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
    """Further names that requests may use but /v1/models does not list, such as the checkpoint's hub id."""
    parent: Served | None = None
    """The model that a LoRA adapter adapts; None: this is no adapter."""
    root: str | None = None
    """The path of a LoRA adapter as the operator or a request named it."""
    running: int = 0
    """Requests that are being answered; counted in the event loop."""
    model: Model = field(init=False)
    abilities: frozenset[str] = frozenset()
    """Abilities (abilities.py); set when the model is listed in the registry."""

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def told_name(self) -> str:
        """The name in `model` of a response: for an adapter its base's, as in vLLM."""
        return self.name if self.parent is None else self.parent.name

    @property
    def manifest(self) -> Manifest:
        return self.model.manifest

    def know_aliases(self) -> None:
        """Adds the names that an opened model brings itself."""
        if self.parent is None:
            self.aliases = (*self.aliases, self.model.name, self.manifest.source.checkpoint)

    def can(self, ability: str) -> bool:
        return ability in self.abilities


class Registry:
    """The served models. `ready` is set once every model is open and warm; after that the registry changes in
    the event loop only, when artifacts and adapters are loaded and unloaded."""

    def __init__(self, models: list[Served], *, check_names: bool = True) -> None:
        self.models = models
        """Adapters come behind all others."""
        self.abilities: frozenset[str] = frozenset()
        """The abilities of all models together."""
        self.check_names = check_names
        self.ready = threading.Event()
        self._by_name: dict[str, Served] = {}
        self._opening: Future[None] | None = None

    def __iter__(self) -> Iterator[Served]:
        return iter(self.models)

    def begin(self) -> None:
        """Opens the models in a thread, so that `open` only waits for it. A server imports its modules
        meanwhile."""
        thread = ThreadPoolExecutor(1)
        self._opening = thread.submit(self._open)
        thread.shutdown(wait=False)

    @property
    def begun(self) -> bool:
        """Whether `begin` was called, so that somebody waits to hear how it ended."""
        return self._opening is not None

    def open(self) -> None:
        """Opens and warms every model: seconds each, minutes where an engine is built first. Raises what
        `load` raises."""
        self._open() if self._opening is None else self._opening.result()

    def _open(self) -> None:
        for served in self.models:
            served.model = served.open()
            served.model.warm_up()
            served.know_aliases()
        self._list(self.models)
        self.ready.set()

    @property
    def adapters(self) -> list[Served]:
        return [served for served in self.models if served.parent is not None]

    def adapter(self, name: str) -> Served | None:
        return next((served for served in self.adapters if served.name == name), None)

    def named(self, name: str) -> Served | None:
        """The model, no adapter, that the operator gave this name."""
        return next(
            (served for served in self.models if served.parent is None and name in served.names), None
        )

    def replace(self, old: Served | None, new: Served) -> None:
        """Lists an opened model in the place of another, or behind all models in front of the adapters. What
        adapts the old one is listed with the new one."""
        self._list(self.with_model(old, new))

    def with_model(self, old: Served | None, new: Served) -> list[Served]:
        """The models as `replace` lists them, opened or not."""
        for adapter in self.adapters:
            if adapter.parent is old:
                adapter.parent = new
        if old is None:
            place = len(self.models) - len(self.adapters)
            return [*self.models[:place], new, *self.models[place:]]
        return [new if served is old else served for served in self.models]

    def put(self, served: Served) -> Served | None:
        """Adds an opened adapter. Returns the one of its name that it replaces, for the caller to close."""
        replaced = self.adapter(served.name)
        self._list([*(other for other in self.models if other is not replaced), served])
        return replaced

    def remove(self, served: Served) -> None:
        """Hides a model from new requests, for the caller to close."""
        self._list([other for other in self.models if other is not served])

    def _list(self, models: list[Served]) -> None:
        by_name: dict[str, Served] = {}
        # Names of the operator win over aliases, the first artifact over later ones.
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
        """Returns the model of that name, the first one for None and "". Raises ApiError (404)."""
        served = self._by_name.get(name) if name else None
        if not name or (not self.check_names and (served is None or served.parent is None)):
            return self.models[0]
        if served is None:
            known = ", ".join(name for served in self.models for name in served.names)
            # A name is the client's own text. Shortened, it cannot flood a response or a log.
            text = f"The model `{name[:200]}` does not exist. Valid aliases: {known}."
            raise ApiError(404, text, param=param)
        return served

    def able(self, name: str | None, ability: str, what: str) -> Served:
        """Returns the model of that name, which must have the ability. Without a name it returns the first
        model with the ability that is no adapter. Raises ApiError (400, 404).

        Args:
            what: the name of the API in the error's text.
        """
        if not name:
            return next(
                (served for served in self.models if served.parent is None and served.can(ability)),
                self.models[0],
            )
        served = self.find(name)
        if not served.can(ability):
            able = ", ".join(other.name for other in self.models if other.can(ability))
            text = f"The model `{served.name}` does not support the {what} API; these do: {able}"
            raise ApiError(400, text, param="model")
        return served
