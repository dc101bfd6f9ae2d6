"""poolrt's reading and a library's, text by text: what agrees, what does not, and what cannot be compared."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...runtime.artifact.manifest import Agreement, Reading, RoleName, Task
from ...runtime.engines.feed import Feed
from ...runtime.errors import InputError, VerificationError
from ...runtime.inputs.items import Item, TokenLimits
from ...runtime.inputs.preparation import Preparation
from ...runtime.outputs import Floats
from ..heads import yes_no
from . import library_heads, library_texts, reference
from .library_answers import Computed, Library
from .library_texts import Case

if TYPE_CHECKING:
    from ..checkpoint import Checkpoint
    from ..graph.tracing import PoolingModel
    from ..heads.planning import Plan

OWN_ONLY = "own reading only"
# Both sides are float32 PyTorch with other attention kernels and other orders of summing. Worst seen over the
# tiny checkpoints of all families and MiniLM: see tests/exporter/test_library_reference.py.
COSINE = 0.99999
"""Least cosine of a vector, or of one token's."""
DIFFERENCE = 1e-4
"""Largest difference of a logit or of a vector's length, beyond 1 as a share of it."""
MOST_TOLD = 5
_TINY = 1e-12


class TooLong(Exception):
    """A pair of which no document fits, which poolrt refuses and a library cuts anywhere."""


class Comparison:
    def __init__(
        self, found: Checkpoint, plan: Plan, module: PoolingModel, preparation: Preparation, library: Library
    ) -> None:
        self.found, self.plan, self.module, self.preparation, self.library = (
            found,
            plan,
            module,
            preparation,
            library,
        )
        self.pairs = plan.scoring == "cross-encoder"
        self.templated = preparation.score_template is not None
        # transformers' tokenizers know no template: they cut it off at its end.
        self.cuts_otherwise = self.templated and not (library.cuts and yes_no.module(found) is not None)
        sides: tuple[RoleName, ...] = ("query", "document")
        self.roles: tuple[RoleName, ...] = tuple(role for role in sides if role in plan.text.roles)
        # transformers' tokenizers cut where they are told; Sentence Transformers' models cut
        # where their files say.
        own = library.limit if library.cuts and library.limit is not None else plan.text.max_tokens
        self.limit = min(plan.text.max_tokens, own, library_texts.LONGEST_CUT)
        self.problems: list[str] = []
        if found.text.ended is not None:
            library.ended()
        if own < plan.text.max_tokens:
            library.lacks.append(f"it cuts texts at {own} tokens, poolrt at {plan.text.max_tokens}")
        library.cut(self.limit)

    def reading(self) -> Reading:
        agreements = [ids] if (ids := self._ids()).texts else []
        if self.problems and self.found.text.config.get("auto_map"):
            self.library.lacks.append("its tokenizer is the repository's own code, which is never run")
            agreements, self.problems = [], []
        own, lacks = OWN_ONLY, list(self.library.lacks)
        if not self.library.computes:
            lacks.append(f"its token ids are those of {self.library.name}" if agreements else "")
            return Reading(reference=own, why="; ".join(filter(None, lacks)), agreements=tuple(agreements))
        before = len(self.problems)
        numbers = self._numbers()
        if self.library.foreign and len(self.problems) > before:
            del self.problems[before:]
            numbers, why = [], f"{self.library.foreign}; only its token ids are those of {self.library.name}"
            if not self.problems:
                return Reading(reference=own, why="; ".join([*lacks, why]), agreements=tuple(agreements))
        agreements += numbers
        if self.problems:
            shown = "".join(f"\n  {line}" for line in self.problems[:MOST_TOLD])
            more = f"\n  and {len(self.problems) - MOST_TOLD} more" if len(self.problems) > MOST_TOLD else ""
            raise VerificationError(
                f"{self.found.source}: poolrt reads this checkpoint otherwise than {self.library.name} "
                f"does:{shown}{more}\n"
                "nothing was kept; where the files leave something open, --hf-overrides, --convert or "
                "--pooler-config decide it, "
                "else please report this checkpoint"
            )
        return Reading(
            reference=self.library.name, why="; ".join(self.library.lacks), agreements=tuple(agreements)
        )

    def _item(self, case: Case, limit: int) -> Item | None:
        """None: nothing to run. Our text preparation, as a request gets it."""
        limits = TokenLimits(truncate_prompt_tokens=-1, max_tokens=limit)
        try:
            if case.document is not None:
                return self.preparation.pairs([case.text], [case.document], limits=limits)[0]
            return self.preparation.singles(
                [case.text], limits=limits, role=case.role, prompt_name=case.prompt_name
            )[0]
        except InputError as error:
            if error.field == "input_tokens":  # the template and the query alone are longer than that
                raise TooLong from None
            return None  # a text without tokens, or an id without a row

    # Token ids

    def _ids(self) -> Agreement:
        added = [*self.found.text.special.values(), *self.library.added()]
        markers = {role.marker_id for role in self.plan.text.roles.values()}
        own = sorted(self.found.text.tokenizer.get_added_tokens_decoder().items())
        added += [token.content for index, token in own if index not in markers]  # see Library.added
        cases = library_texts.for_ids(
            added,
            limit=self.limit,
            pairs=self.pairs,
            templated=self.cuts_otherwise,
            empty=True,
            paired=self.library.cuts,
        )
        prompts = [name for name, prompt in self.plan.text.prompts.items() if prompt]
        cases += [] if self.pairs else library_texts.sides(self.roles, prompts, limit=self.limit)
        count = 0
        for case in cases:
            try:
                ours, theirs = self._item(case, self.limit), self.library.read(case)
            except TooLong:
                continue
            if ours is None and (not theirs.ids or max(theirs.ids) >= self.plan.text.vocab_size):
                continue
            if ours is not None and ours.truncated and self.cuts_otherwise:
                # Where a template ends with a question, what is cut of the document is a choice of its own
                continue
            count += 1
            if ours is None:
                self.problems.append(
                    f"token ids of {case}: poolrt refuses the text, the library reads {_some(theirs.ids, 0)}"
                )
                continue
            types = [0] * len(ours.ids) if ours.type_ids is None else ours.type_ids
            # A library that gives its model no types leaves it the first.
            wanted = (theirs.type_ids or [0] * len(types)) if "token_type_ids" in self.plan.inputs else types
            attention = [1] * len(ours.ids) if ours.attention is None else ours.attention
            for what, one, other in (
                ("token ids", ours.ids, theirs.ids), ("token types", types, wanted),
                ("attention mask", attention, theirs.attention),
            ):  # fmt: skip
                if list(one) != list(other):
                    place = next(
                        (index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
                        min(len(one), len(other)),
                    )
                    self.problems.append(
                        f"{what} of {case}: poolrt {_some(one, place)} ({len(one)}), the library "
                        f"{_some(other, place)} ({len(other)}), "
                        f"first apart at {place}"
                    )
                    break
        return Agreement(what="token ids", texts=count)

    # Numbers

    def _numbers(self) -> list[Agreement]:
        large = self.found.parameters > library_texts.LARGE_PARAMETERS
        limit = min(self.limit, library_texts.LONGEST_LARGE if large else library_texts.LONGEST)
        self.library.cut(limit)
        cases = library_texts.for_numbers(
            self.roles, limit=limit, pairs=self.pairs, templated=self.cuts_otherwise
        )
        known: dict[Case, Item] = {}
        for case in cases:
            with contextlib.suppress(TooLong):
                if (item := self._item(case, limit)) is not None and item.ids:
                    known[case] = item
        if not known:
            self.library.lacks.append(f"no text of the comparison fits into {limit} tokens")
        # Longest first: classes that switch to another attention at a short text never switch back.
        order = sorted(known, key=lambda case: -len(known[case].ids))
        theirs: dict[Case, Computed] = {}
        for case in order:
            self.library.forget()
            try:
                theirs[case] = self.library.compute(case)
            except Exception as error:
                raise VerificationError(
                    f"{self.found.source}: {self.library.name} cannot run {case} "
                    f"({len(known[case].ids)} tokens): {error}"
                ) from None
        same = [case for case in order if theirs[case].read.ids == known[case].ids]
        rows = [(case, self._alone(known[case])) for case in same]
        short = [case for case in same if len(known[case].ids) <= 512][:6]
        rows += [
            (case, row)
            for case, row in zip(short, self._together([known[case] for case in short]), strict=True)
        ]
        measured: dict[str, list[tuple[float, float]]] = {}
        for case, ours in rows:
            hidden, answers, states = (
                ours.pop("hidden", None),
                dict(theirs[case].answers),
                theirs[case].hidden,
            )
            if hidden is None or states is None:
                pass
            elif (
                self.found.family.projection
                and states.shape[-1] == self.plan.heads["token_embed"].dim != hidden.shape[-1]
            ):
                # The class projects inside: its hidden states are the vectors of tokens.
                answers["token_embed"] = library_heads.unit(states)
            else:
                self._measure(measured, "hidden states", case, hidden, states)
            for task, expected in answers.items():
                self._measure(
                    measured, task, case, self._answer(task, ours, known[case], expected.shape[-1]), expected
                )
            score = theirs[case].score
            if score is not None and not self._activation_asked():
                self._measure(measured, "classify score", case, self._score(ours, known[case]), score)
        made = []
        for what, values in measured.items():
            cosines, differences = zip(*values, strict=True)
            made.append(Agreement(
                what=what, texts=len(values), worst_cosine=None if "classify" in what else min(cosines),
                worst_difference=max(differences),
                tolerance=DIFFERENCE if "classify" in what else COSINE,
            ))  # fmt: skip
        return made

    def _alone(self, item: Item) -> dict[str, Floats]:
        return self._together([item])[0]

    def _together(self, items: Sequence[Item]) -> list[dict[str, Floats]]:
        """Our module on one batch, padded on the right: `hidden` and each graph output, for every
        item without its padding."""
        import torch

        from ..graph.tracing import described

        if not items:
            return []
        inputs = described(self.plan, "model.onnx", ()).inputs
        arrays = Feed(inputs, pad_id=self.plan.text.pad_id).arrays(items)
        hidden: list[Any] = []
        handle = self.module.backbone.register_forward_hook(
            lambda module, inputs, output: hidden.append(output)
        )
        try:
            with torch.inference_mode():
                outputs = self.module(*(torch.from_numpy(arrays[tensor.name]) for tensor in inputs))
        finally:
            handle.remove()
        names = [self.plan.heads[part.task].output for part in self.plan.parts]
        last = hidden[0][-1] if hidden[0].ndim == 4 else hidden[0]  # of all layers the last
        made = []
        for row, item in enumerate(items):
            count = len(item.ids)
            answers = {
                name: (value[row, :count] if value.ndim == 3 else value[row]).float().numpy()
                for name, value in zip(names, outputs, strict=True)
            }
            # A class that is run with its own head answers logits in the place of hidden states.
            states = {} if self.plan.published is not None else {"hidden": last[row, :count].float().numpy()}
            made.append({**states, **answers})
        return made

    def _answer(self, task: Task, outputs: Mapping[str, Floats], item: Item, width: int) -> Floats:
        """Ours as far as the library goes: a vector of full width, or of the stored one that the library cuts
        to, too; a logit before calibration and activation."""
        import torch

        head = self.plan.heads[task]
        if task in ("classify", "token_classify"):
            return outputs[head.output]
        head = head if head.dimensions == width else dataclasses.replace(head, dimensions=None)
        return reference.finished(task, head, torch.from_numpy(np.array(outputs[head.output])), item).numpy()

    def _activation_asked(self) -> bool:
        """Whether something decides the activation that the library does not read: vLLM's
        problem_type, or a pooler config."""
        return (
            self.found.config.get("problem_type") is not None or self.found.pooler.use_activation is not None
        )

    def _score(self, outputs: Mapping[str, Floats], item: Item) -> Floats:
        import torch

        head = self.plan.heads["classify"]
        return reference.finished(
            "classify", head, torch.from_numpy(np.array(outputs[head.output])), item
        ).numpy()

    def _measure(
        self,
        measured: dict[str, list[tuple[float, float]]],
        what: str,
        case: Case,
        ours: Floats,
        theirs: Floats,
    ) -> None:
        if ours.shape != theirs.shape:
            self.problems.append(
                f"{what} of {case}: shape {list(ours.shape)}, the library's {list(theirs.shape)}"
            )
            return
        cosine, difference = _cosine(ours, theirs), _difference(ours, theirs)
        measured.setdefault(what, []).append((cosine, difference))
        if "classify" in what:
            if not difference <= DIFFERENCE:
                self.problems.append(f"{what} of {case}: {_numbers(ours)}, the library's {_numbers(theirs)}")
        elif not cosine >= COSINE:
            self.problems.append(f"{what} of {case}: cosine {cosine:.6f}, at least {COSINE} is expected")
        elif not _lengths_apart(ours, theirs) <= DIFFERENCE * 10:
            self.problems.append(
                f"{what} of {case}: the same direction, but lengths {_lengths(ours)}, the library's "
                f"{_lengths(theirs)}"
            )


def _cosine(one: Floats, other: Floats) -> float:
    """Of a vector, or the least of the rows'; what is not finite agrees with nothing."""
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return -1.0
    if one.size == 0:
        return 1.0
    first, second = np.atleast_2d(one.astype(np.float64)), np.atleast_2d(other.astype(np.float64))
    norms = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    both_zero = np.abs(first - second).max(axis=-1) < _TINY
    return float(
        np.where(norms < _TINY, both_zero, (first * second).sum(axis=-1) / np.maximum(norms, _TINY)).min()
    )


def _difference(one: Floats, other: Floats) -> float:
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return float("inf")
    apart = np.abs(one.astype(np.float64) - other) / np.maximum(1.0, np.abs(other))
    return float(apart.max(initial=0.0))


def _lengths_apart(one: Floats, other: Floats) -> float:
    first, second = (np.linalg.norm(np.atleast_2d(side).astype(np.float64), axis=-1) for side in (one, other))
    return float((np.abs(first - second) / np.maximum(1e-3, second)).max(initial=0.0))


def _lengths(rows: Floats) -> str:
    return _numbers(np.linalg.norm(np.atleast_2d(rows), axis=-1))


def _numbers(values: Floats) -> str:
    flat = np.asarray(values).reshape(-1)
    return f"[{', '.join(f'{value:.4f}' for value in flat[:4])}{', ...' if len(flat) > 4 else ''}]"


def _some(ids: Sequence[int], place: int) -> str:
    start = max(0, place - 2)
    shown = ", ".join(map(str, ids[start : start + 6]))
    return f"[{'..., ' if start else ''}{shown}{', ...' if len(ids) > start + 6 else ''}]"
