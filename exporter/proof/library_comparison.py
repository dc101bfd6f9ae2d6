"""poolrt's reading and a library's, text by text: what agrees, what does not, and what cannot be compared."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...runtime.artifact.manifest import Agreement, Head, Reading, RoleName, Task
from ...runtime.errors import InputError, VerificationError
from ...runtime.inputs.items import Item, TokenLimits
from ...runtime.inputs.preparation import Preparation
from ...runtime.outputs import Floats
from ..heads import yes_no
from . import library_heads, library_texts, reference
from .library_answers import Computed, Library
from .library_distances import (
    first_difference,
    largest_difference,
    least_cosine,
    lengths_apart,
    shown_ids,
    shown_lengths,
    shown_numbers,
)
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
MOST_SHOWN = 5


class TooLong(Exception):
    """The template and the query leave no room for a document: poolrt refuses the pair, a library cuts it
    anywhere."""


class Comparison:
    """One checkpoint as poolrt reads it beside its own library. `reading` runs the comparison."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        plan: Plan,
        module: PoolingModel,
        preparation: Preparation,
        library: Library,
    ) -> None:
        self.checkpoint, self.plan, self.module = checkpoint, plan, module
        self.preparation, self.library = preparation, library
        self.pairs = plan.scoring == "cross-encoder"
        self.templated = preparation.score_template is not None
        # transformers' tokenizers know no template: they cut it off at its end.
        self.cuts_otherwise = self.templated and not (library.cuts and yes_no.module(checkpoint) is not None)
        sides: tuple[RoleName, ...] = ("query", "document")
        self.roles: tuple[RoleName, ...] = tuple(role for role in sides if role in plan.text.roles)
        # Sentence Transformers' models cut where their files say, transformers' tokenizers anywhere.
        own = library.limit if library.cuts and library.limit is not None else plan.text.max_tokens
        self.limit = min(plan.text.max_tokens, own, library_texts.LONGEST_CUT)
        self.problems: list[str] = []
        if checkpoint.text.ended is not None:
            library.ended()
        if checkpoint.text.canonical is not None:
            library.canonical()
        if own < plan.text.max_tokens:
            library.lacks.append(f"it cuts texts at {own} tokens, poolrt at {plan.text.max_tokens}")
        library.cut(self.limit)

    def reading(self) -> Reading:
        """Returns what agreed. Raises VerificationError with the first problems where something does not."""
        agreements = [ids] if (ids := self._ids()).texts else []
        if self.problems and self.checkpoint.text.config.get("auto_map"):
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
            shown = "".join(f"\n  {line}" for line in self.problems[:MOST_SHOWN])
            more = (
                f"\n  and {len(self.problems) - MOST_SHOWN} more" if len(self.problems) > MOST_SHOWN else ""
            )
            raise VerificationError(
                f"{self.checkpoint.source}: poolrt reads this checkpoint otherwise than {self.library.name} "
                f"does:{shown}{more}\n"
                "nothing was kept; where the files leave something open, --hf-overrides, --convert or "
                "--pooler-config decide it, "
                "else please report this checkpoint"
            )
        return Reading(
            reference=self.library.name, why="; ".join(self.library.lacks), agreements=tuple(agreements)
        )

    def _item(self, case: Case, limit: int) -> Item | None:
        """The case as our text preparation reads a request. None: poolrt refuses it. Raises TooLong."""
        limits = TokenLimits(truncate_prompt_tokens=-1, max_tokens=limit)
        try:
            if case.document is not None:
                return self.preparation.pairs([case.text], [case.document], limits=limits)[0]
            return self.preparation.singles(
                [case.text], limits=limits, role=case.role, prompt_name=case.prompt_name
            )[0]
        except InputError as error:
            if error.field == "input_tokens":
                raise TooLong from None
            return None  # a text without tokens, or an id without a row

    # Token ids

    def _ids(self) -> Agreement:
        added = [*self.checkpoint.text.special.values(), *self.library.added()]
        markers = {role.marker_id for role in self.plan.text.roles.values()}
        own = sorted(self.checkpoint.text.tokenizer.get_added_tokens_decoder().items())
        added += [token.content for index, token in own if index not in markers]  # see Library.added
        if not hasattr(self.library.tokenizer, "backend_tokenizer"):
            # Python code around SentencePiece, whose spaces beside such tokens no tokenizer.json has.
            self.library.lacks.append("texts that spell out special tokens are not compared")
            added = []
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
                # poolrt cuts the document and keeps the end of the template; the library cuts the end.
                continue
            count += 1
            if ours is None:
                self.problems.append(
                    f"token ids of {case}: poolrt refuses the text, the library reads "
                    f"{shown_ids(theirs.ids, 0)}"
                )
                continue
            types = [0] * len(ours.ids) if ours.type_ids is None else ours.type_ids
            # A library that gives its model no types leaves it the first.
            wanted = (theirs.type_ids or [0] * len(types)) if "token_type_ids" in self.plan.inputs else types
            attention = [1] * len(ours.ids) if ours.attention is None else ours.attention
            columns = (
                ("token ids", list(ours.ids), theirs.ids),
                ("token types", list(types), list(wanted)),
                # Padding of the model's own is a part of the text, which a tokenizer does not know.
                (
                    "attention mask",
                    list(attention),
                    theirs.attention if self.plan.text.pad_to is None else list(attention),
                ),
            )
            problems = (first_difference(what, case, *values) for what, *values in columns)
            self.problems += [problem for problem in problems if problem is not None][:1]
        return Agreement(what="token ids", texts=count)

    # Numbers

    def _numbers(self) -> list[Agreement]:
        large = self.checkpoint.parameters > library_texts.LARGE_PARAMETERS
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
        # Longest first, because classes that switch to another attention at a short text never switch back.
        order = sorted(known, key=lambda case: -len(known[case].ids))
        theirs: dict[Case, Computed] = {}
        for case in order:
            self.library.forget()
            try:
                theirs[case] = self.library.compute(case)
            except Exception as error:
                raise VerificationError(
                    f"{self.checkpoint.source}: {self.library.name} cannot run {case} "
                    f"({len(known[case].ids)} tokens): {error}"
                ) from None
        same = [case for case in order if theirs[case].read.ids == known[case].ids]
        rows = [(case, self._outputs([known[case]])[0]) for case in same]
        short = [case for case in same if len(known[case].ids) <= 512][:6]
        rows += zip(short, self._outputs([known[case] for case in short]), strict=True)
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
                self.checkpoint.family.projection
                and states.shape[-1] == self.plan.heads["token_embed"].dim != hidden.shape[-1]
            ):
                # The class projects inside, so its hidden states are the tokens' vectors.
                answers["token_embed"] = library_heads.unit(states)
            else:
                self._measure(measured, "hidden states", case, hidden, states)
            for task, expected in answers.items():
                self._measure(
                    measured, task, case, self._answer(task, ours, known[case], expected.shape[-1]), expected
                )
            score = theirs[case].score
            if score is not None and not self._activation_overridden():
                finished = self._finished("classify", self.plan.heads["classify"], ours, known[case])
                self._measure(measured, "classify score", case, finished, score)
        agreements = []
        for what, values in measured.items():
            cosines, differences = zip(*values, strict=True)
            logits = "classify" in what
            agreements.append(
                Agreement(
                    what=what,
                    texts=len(values),
                    worst_cosine=None if logits else min(cosines),
                    worst_difference=max(differences),
                    tolerance=DIFFERENCE if logits else COSINE,
                )
            )
        return agreements

    def _outputs(self, items: Sequence[Item]) -> list[dict[str, Floats]]:
        return reference.outputs_together(self.module, self.plan, items)

    def _answer(self, task: Task, outputs: Mapping[str, Floats], item: Item, width: int) -> Floats:
        """Our answer as far as the library computes it: a vector cut to `width` only if the library cuts too,
        a logit before calibration and activation."""
        head = self.plan.heads[task]
        if task in ("classify", "token_classify"):
            return outputs[head.output]
        head = head if head.dimensions == width else dataclasses.replace(head, dimensions=None)
        return self._finished(task, head, outputs, item)

    def _finished(self, task: Task, head: Head, outputs: Mapping[str, Floats], item: Item) -> Floats:
        import torch

        return reference.finished(task, head, torch.from_numpy(np.array(outputs[head.output])), item).numpy()

    def _activation_overridden(self) -> bool:
        """Whether the activation is decided by what the library does not read: vLLM's problem_type, or a
        pooler config."""
        return (
            self.checkpoint.config.get("problem_type") is not None
            or self.checkpoint.pooler.use_activation is not None
        )

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
        cosine = least_cosine(ours, theirs)
        difference = largest_difference(ours, theirs)
        measured.setdefault(what, []).append((cosine, difference))
        if "classify" in what:
            if not difference <= DIFFERENCE:
                self.problems.append(
                    f"{what} of {case}: {shown_numbers(ours)}, the library's {shown_numbers(theirs)}"
                )
        elif not cosine >= COSINE:
            self.problems.append(f"{what} of {case}: cosine {cosine:.6f}, at least {COSINE} is expected")
        elif not lengths_apart(ours, theirs) <= DIFFERENCE * 10:
            self.problems.append(
                f"{what} of {case}: the same direction, but lengths {shown_lengths(ours)}, the "
                f"library's {shown_lengths(theirs)}"
            )
