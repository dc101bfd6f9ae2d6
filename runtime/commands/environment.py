"""Which environment variables and files of flags act on this machine's commands, for `poolrt doctor`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..command_line import config_file
from ..command_line.command import CONFIG, Command
from ..command_line.flags import Flag, Value
from ..command_line.parameters import from_environment, is_link, read
from ..command_line.spelling import choose
from ..errors import InputError

OWN = {
    "POOLRT_DEBUG": "1: faults of poolrt are raised",
    "POOLRT_ENGINE_CACHE": "folder of what is worked out once per machine; empty: none",
    "POOLRT_HOME": "folder of stored artifacts",
    "POOLRT_STREAM_BYTES": "size from which a checkpoint is exported from its files",
    "POOLRT_PUBLISHED_PICTURES": "folder of pictures of published scores",
}
"""poolrt's variables that belong to no flag -> what they do."""
OTHERS = {
    "NO_COLOR": "no colours",
    "OMP_NUM_THREADS": "threads of numeric libraries",
    "CUDA_VISIBLE_DEVICES": "GPUs that are seen",
    "HF_HOME": "folder of downloaded checkpoints",
    "HF_ENDPOINT": "address of the hub",
    "HF_HUB_OFFLINE": "1: nothing is downloaded",
    "XDG_CACHE_HOME": "folder of caches",
    "XDG_DATA_HOME": "folder of stored artifacts, in it",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "where traces are sent",
}
"""Variables of other programs that poolrt, or a library that it runs, obeys."""
PREFIX = "POOLRT_"
SECRET = ("KEY", "TOKEN", "PASSWORD")


@dataclass(frozen=True, slots=True)
class Variable:
    """An environment variable that is set."""

    name: str
    value: str
    """Of a key or token its length only."""
    sets: str
    """The flag and its commands, or what the variable does; empty: nothing."""
    problem: str = ""
    """Why it is not used."""

    def line(self) -> str:
        return f"{self.name}={self.value}  " + (f"not used: {self.problem}" if self.problem else self.sets)


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A file of flags that a variable names."""

    variable: str
    path: str
    command: str
    sets: tuple[str, ...] = ()
    problem: str = ""

    def line(self) -> str:
        what = f"not used: {self.problem}" if self.problem else f"sets {', '.join(self.sets) or 'nothing'}"
        return f"{self.path} ({self.variable}, for poolrt {self.command})  {what}"


def variables(commands: Iterable[Command], environment: Mapping[str, str]) -> list[Variable]:
    """The variables that act, in the order of their names, and poolrt's that do not."""
    flags: dict[str, list[tuple[str, Value]]] = {}
    for command in commands:
        for value in command.values:
            for name in value.variables(command.name or ""):
                flags.setdefault(name, []).append((command.name or "", value))
    known = {**OTHERS, **OWN}
    result: list[Variable] = []
    for name, text in sorted(environment.items()):
        shown = f"({len(text)} characters)" if any(part in name for part in SECRET) else text
        if name.startswith("POOLRT_") and is_link(name, text):
            continue
        if not text and name != "POOLRT_ENGINE_CACHE":
            continue
        if name in flags:
            users = ", ".join(dict.fromkeys(command for command, _ in flags[name]))
            command, value = flags[name][0]
            label = f"--{value.name}" if isinstance(value.declaration, Flag) else value.declaration.metavar
            problem = _problem(lambda value=value, command=command: _check(value, command, environment))
            result.append(Variable(name, shown, f"{label} of {users}", problem))
        elif name in known:
            result.append(Variable(name, shown, known[name]))
        elif name.startswith("POOLRT_"):
            problem = f"poolrt has no such variable{choose(name, {**flags, **OWN}, fold=False)}"
            result.append(Variable(name, shown, "", problem))
    return result


def misspelled(command: Command, environment: Mapping[str, str]) -> list[str]:
    """Sentences about variables that set nothing and are named almost as one of the command's."""
    known = {name for value in command.values for name in value.variables(command.name or "")} | set(OWN)
    # The prefix alone makes all names alike.
    words = sorted(name.removeprefix(PREFIX) for name in known)
    sentences: list[str] = []
    for name, text in sorted(environment.items()):
        if not name.startswith(PREFIX) or not text or name in known or is_link(name, text):
            continue
        for word in difflib.get_close_matches(name.removeprefix(PREFIX), words, n=1, cutoff=0.8):
            sentences.append(f"{name} sets nothing of poolrt {command.name}; did you mean {PREFIX}{word}?")
    return sentences


def files(commands: Iterable[Command], environment: Mapping[str, str]) -> list[ConfigFile]:
    """The files of flags that variables name."""
    result: list[ConfigFile] = []
    for command in commands:
        for variable in CONFIG.variables(command.name or ""):
            if path := environment.get(variable):
                sets: list[str] = []
                problem = _problem(lambda path=path, command=command, sets=sets: _open(path, command, sets))
                names = tuple(name.replace("_", "-") for name in sets)
                result.append(ConfigFile(variable, path, command.name or "", names, problem))
    return result


def _open(path: str, command: Command, sets: list[str]) -> None:
    content = config_file.read(Path(path), command.values)
    sets += content
    for value in command.values:
        if value.key in content:
            where = f"{value.key} of {Path(path).name}"
            texts = config_file.texts_of(value, content[value.key], where)
            for text in texts if isinstance(texts, list) else ():
                read(value, text, where)


def _check(value: Value, command: str, environment: Mapping[str, str]) -> None:
    for _, where, texts in from_environment(value, command, environment):
        for text in texts if isinstance(texts, list) else ():
            read(value, text, where)


def _problem(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except InputError as error:
        return str(error)
    return ""
