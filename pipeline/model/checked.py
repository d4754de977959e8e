"""A model whose card agrees with its ONNX file: the card, the token of both, what it takes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from pipeline.display.describe import as_html, as_text
from pipeline.errors import ModelError
from pipeline.model.card import Card
from pipeline.model.refs import CLASSES, ModelRef, OutputRef

__all__ = ["Footprint", "Model"]

GPU_BATCH = 16
"""How many times as many patches an automatic batch may have anywhere but on a CPU."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Memory a model takes, measured: its sessions, and each batch that is being run."""

    session_bytes: int
    running_bytes: int


@dataclass(frozen=True)
class Model:
    """A card that agrees with its ONNX file, the token of both, and what it was seen to take.

    ``paths`` are where the cards are; several for an ensemble, whose ``card`` is the first one.
    """

    path: str
    card: Card
    ref: ModelRef
    footprint: Footprint
    others: tuple[Card, ...] = field(default=())

    def output(self, name: str | None = None) -> OutputRef:
        """Give an output by its name, the first one by default.

        Raises `KeyError` where there is none of that name.
        """
        if name is None:
            return self.ref.outputs[0]
        return {output.name: output for output in self.ref.outputs}[name]

    def running(self, provider: str = "cpu", *, gpu_bytes: int = 0, tta: str = "none") -> Model:
        """Give the same model, run by another provider, or with test-time augmentation.

        ``gpu_bytes`` bounds its memory on a GPU, 0 leaves that to the runtime. ``tta`` is
        ``none``, ``flips``, ``rotations`` or ``all``: the mean over so many ways to turn a patch.
        Raises `ModelError` where numbers of classes would be averaged.
        """
        if tta != "none" and any(each.activation == CLASSES for each in self.ref.maps):
            raise ModelError(
                f"{self.path}: tta {tta}: it gives numbers of classes, which have no mean; use "
                "none, or a graph that gives a score for each class"
            )
        members = tuple(
            replace(
                member,
                provider=provider,
                gpu_bytes=gpu_bytes,
                # A GPU is only filled by much at once.
                batch=member.batch * (GPU_BATCH if member.batch_auto and provider != "cpu" else 1),
            )
            for member in self.ref.members
        )
        return replace(self, ref=replace(self.ref, members=members, tta=tta))

    @property
    def channels(self) -> tuple[str, ...]:
        """Name of each channel of the first output."""
        return self.ref.outputs[0].channels

    def facts(self) -> dict[str, str]:
        """Say what there is to know, for people: name -> text."""
        ref = self.ref
        first = ref.members[0]
        kept = f"of which {ref.step} are kept (halo {ref.halo})"
        shared = f"averaged where they overlap by {2 * ref.halo}"
        most = "at most " if first.batch_auto else ""
        return {
            "version": self.card.version or "unknown",
            "licence": self.card.licence or "unknown",
            "mpp": "any" if self.card.mpp is None else f"{self.card.mpp:g} um/px",
            "patch": f"{ref.patch} px, {kept if ref.method == 'crop' else shared}",
            **{f"output {each.name}": self._said(each) for each in ref.outputs},
            "batch": f"{most}{first.batch}",
            "onnx": "; ".join(f"{each.onnx} (sha256 {each.digest[:12]})" for each in ref.members),
        }

    def _said(self, output: OutputRef) -> str:
        names = output.channels
        listed = ", ".join(names) if len(names) <= 8 else f"{len(names)} channels"
        every = f"one value every {self.ref.maps[output.map].stride} px"
        return f"{output.kind}: {listed}; {every}"

    def __repr__(self) -> str:
        return as_text(f"Model {self.card.name}", self.facts())

    def _repr_html_(self) -> str:
        return as_html(f"Model {self.card.name}", self.facts())
