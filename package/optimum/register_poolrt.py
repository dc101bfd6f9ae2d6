"""`optimum-cli export poolrt --model MODEL OUT`: the subcommand that optimum finds in its namespace.

The wheel installs this file into the folder optimum/commands/register, beside those of other exporters. Only
optimum imports it, never an environment without optimum. A folder without __init__ is optimum's rule.
"""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo
from optimum.commands.export.base import ExportCommand

CONVERT = {
    "auto": "auto",
    "feature-extraction": "embed",
    "fill-mask": "auto",
    "text-classification": "classify",
    "token-classification": "auto",
    "zero-shot-image-classification": "embed",
}
"""optimum's name of a task -> what `poolrt export --convert` makes of the checkpoint. Its synonyms
(sentence-similarity, sequence-classification, ...) are optimum's own. The head of a masked language model is
SPLADE's, which the checkpoint's files name."""


class PoolrtExportCommand(BaseOptimumCLICommand):
    COMMAND = CommandInfo(
        name="poolrt", help="Export embedders, rerankers and classifiers to verified poolrt artifacts."
    )

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        required = parser.add_argument_group("Required arguments")
        required.add_argument(
            "-m", "--model", required=True, help="Model id on the hub, or the folder of a checkpoint."
        )
        required.add_argument("output", type=Path, help="Folder of the artifact.")
        optional = parser.add_argument_group("Optional arguments")
        optional.add_argument(
            "--task",
            default="auto",
            help=f"What the model is for: {', '.join(CONVERT)}, or a synonym (default: what its files say).",
        )
        optional.add_argument(
            "--dtype", choices=("fp32", "fp16", "bf16"), help="Numbers of the graph; the same as --precision."
        )
        optional.add_argument(
            "--precision", help="fp32 (default), fp16, bf16, int8, int8-weights, int4-weights, auto."
        )
        optional.add_argument("--target", help="onnx (default), openvino, tensorrt-rtx, tensorrt.")
        optional.add_argument("--revision", help="Branch, tag or commit of a hub id.")
        optional.add_argument("--subfolder", help="Folder of the checkpoint inside the repository.")
        optional.add_argument(
            "--trust-remote-code",
            action="store_true",
            help="Accepted and ignored: code of a checkpoint is never run.",
        )

    def run(self) -> None:
        """Runs `poolrt export`, and ends the process with its exit code where that is not 0."""
        from poolrt.runtime.commands.cli import main

        if code := main(["export", *self.arguments()]):
            raise SystemExit(code)

    def arguments(self) -> list[str]:
        """The arguments of `poolrt export`. Ends the process for a task that pooling models do not have."""
        from optimum.exporters.tasks import TasksManager

        options = self.args
        assert options is not None, "optimum runs a command with its arguments"
        task = TasksManager.map_from_synonym(options.task)
        if task not in CONVERT:
            self.parser.error(
                f"--task {options.task}: poolrt exports pooling models, expected one of {', '.join(CONVERT)}"
            )
        if options.dtype and options.precision and options.dtype != options.precision:
            self.parser.error(
                f"--dtype {options.dtype} and --precision {options.precision}: give one of both"
            )
        output = options.output.resolve()
        flags = {
            "--name": output.name,
            "--out": str(output.parent),
            "--convert": CONVERT[task],
            "--precision": options.precision or options.dtype,
            "--target": options.target,
            "--revision": options.revision,
            "--subfolder": options.subfolder,
        }
        words = [part for name, value in flags.items() if value is not None for part in (name, value)]
        return [options.model, *words]


REGISTER_COMMANDS = [(PoolrtExportCommand, ExportCommand)]
