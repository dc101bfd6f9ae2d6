"""The export that a checkpoint on the command line needs first."""

from __future__ import annotations

from pathlib import Path

from ...runtime.artifact import checkpoints, overrides, reading
from ...runtime.artifact.checkpoints import CONVERSIONS, is_artifact, options_of
from ...runtime.errors import InputError
from .options import Options


def artifact_of(argument: str, options: Options, run: checkpoints.Run = checkpoints.call) -> Path:
    """The folder of the artifact; a checkpoint is exported first."""
    if is_artifact(argument):
        refuse_other_exports(Path(argument), options)
    return checkpoints.artifact_of(argument, export_options(options), cache=options.cache, run=run)


def refuse_other_exports(folder: Path, options: Options) -> None:
    """Raises InputError for export flags that differ from those of a finished artifact."""
    manifest = reading.read(folder, check="quick").manifest
    hf_overrides, pooler_config = options.hf_overrides, options.pooler_config
    flags = list(
        overrides.undone(manifest, hf_overrides, options.convert or CONVERSIONS[options.task], pooler_config)
    )
    flags += [f"--runner {options.runner}"] if options.runner not in (None, "auto", "pooling") else []
    for flag in ("revision", "subfolder"):
        wanted = getattr(options, flag)
        flags += [f"--{flag} {wanted}"] if wanted not in (None, getattr(manifest.source, flag)) else []
    if flags:
        raise InputError(
            f"{folder.name} is a finished artifact, exported without {', '.join(flags)}: export it "
            "with that, or give the checkpoint"
        )
    overrides.widened(manifest, hf_overrides)


def export_options(options: Options) -> list[str]:
    """The flags of `poolrt export` for a checkpoint on this command line."""
    values = {name: getattr(options, name) for name in ("runner", "revision", "subfolder", "precision")}
    values["target"] = ",".join(options.target) or None
    values["convert"] = options.convert or CONVERSIONS[options.task]
    return options_of(values | {name: getattr(options, name) for name in ("hf_overrides", "pooler_config")})
