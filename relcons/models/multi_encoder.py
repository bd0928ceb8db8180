"""Segmentation models with several encoders and one decoder."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from relcons.checks import check_choice
from relcons.models.batching import encode, may_share_a_pass
from relcons.models.build import (
    FusionKind,
    General,
    build_fusion,
    build_generals,
    check_finest_first,
    check_levels,
    check_size,
)
from relcons.models.pretrained import Pretrained
from relcons.models.trial import try_out
from relcons.networks import split_unet
from relcons.parts.parts import UNetParts

__all__ = ["MultiEncoderOutput", "MultiEncoderUNet"]

Levels = tuple[Tensor, ...]
Route = Literal["paper", "joint"]
Outputs = Literal["auto", "native"]


class MultiEncoderOutput(NamedTuple):
    """What [`MultiEncoderUNet`][relcons.MultiEncoderUNet] returns in training; one tuple per general encoder."""

    logits: Any
    target: Levels
    general: tuple[Levels, ...]
    source: tuple[Levels | None, ...] | None


class MultiEncoderUNet(Pretrained):
    """Several general encoders, one target encoder and one decoder, made of a network you have.

    The target encoder is the network's own; each general encoder adds its bottleneck to the
    target's before the decoder. Skip connections come from the target encoder alone, unless
    ``fuse_levels`` names them. What no output
    reaches (some encoders have dead ends) is set to not trainable, in ``net`` too: deep-supervision
    heads, for one, that are off when the model is built. It takes a pass of a small image, see
    ``UNetParts.examples``; without one that the network takes, freeze dead ends yourself.

    Args:
        net: a network of segmentation_models_pytorch, dynamic-network-architectures or MONAI, or
            [`UNetParts`][relcons.UNetParts]. It is not copied; its modules are shared.
        generals: number of general encoders.
        general: ``"copy"`` (architecture and weights of ``net``'s encoder), ``"reset"`` (its
            architecture with fresh weights by the neighbour's own initialiser) or an encoder of your
            own with maps of the same shapes; a sequence gives one entry per general encoder.
        fusion: ``"project"``: concatenation, then a 1x1 convolution that starts as [identity, 0]:
            works with every decoder, keeps pretrained weights, output at first exactly that of
            ``net``. ``"concat"`` (the paper): a fresh decoder that takes all channels.
        levels: which of the encoder's maps carry relations, as indices of its list.
        fuse_levels: at which of the encoder's maps the general encoders join the target's; all but the
            bottleneck are skip connections. With ``fusion="concat"`` the fresh decoder is wider there.
        route: ``"paper"``: the segmentation loss never reaches a general encoder. ``"joint"``: it does.
        outputs: ``"auto"``: in evaluation mode the full-resolution tensor alone, the first where ``net``
            returns several. ``"native"``: what ``net`` returns, in both modes.

    Raises:
        TypeError: ``net`` belongs to no supported library, its parts do not run one after another, or ``general``
            is neither a name nor a module.
        ValueError: another argument is not among those above, a level does not exist, is the input
            or has no channels, none of several outputs is plainly the result, ``fusion="concat"`` and
            there is no way to widen the decoder, an own encoder has other widths or is used twice.

    Source: Zhang et al. 2021, Section III-A and Fig. 2.

    Examples:
        >>> import segmentation_models_pytorch as smp
        >>> net = smp.Unet("resnet18", encoder_weights=None, in_channels=1)
        >>> model = MultiEncoderUNet(net, generals=2)
        >>> output = model(torch.rand(2, 1, 64, 64), source=(torch.rand(2, 1, 64, 64), None))
        >>> len(output.general), output.source[1]
        (2, None)
    """

    def __init__(
        self,
        net: nn.Module | UNetParts,
        *,
        generals: int = 1,
        general: General | nn.Module | Sequence[General | nn.Module] = "copy",
        fusion: FusionKind = "project",
        levels: Sequence[int] = (-1,),
        fuse_levels: Sequence[int] = (-1,),
        route: Route = "paper",
        outputs: Outputs = "auto",
    ) -> None:
        super().__init__()
        check_choice("fusion", fusion, get_args(FusionKind))
        check_choice("route", route, get_args(Route))
        check_choice("outputs", outputs, get_args(Outputs))
        parts = net if isinstance(net, UNetParts) else split_unet(net)
        with torch.inference_mode(False):  # what is built inside of it could never be trained
            encoders = build_generals(parts, generals, general)
        self.levels = check_levels(levels, parts.widths)
        self.channels = tuple(parts.widths[level] for level in self.levels)
        self.route: Route = route
        self.outputs: Outputs = outputs
        self.target_encoder = parts.encoder
        self.general_encoders = nn.ModuleList(encoders)
        fused = check_levels(fuse_levels, parts.widths, "fuse_levels")
        with torch.inference_mode(False):
            self.fusion, self.decoder = build_fusion(parts, fusion, fused, generals)
        self.head = parts.head if parts.head is not None else nn.Identity()
        self.classification_head = parts.classification_head
        self._pass = parts.segment
        self._divisors = parts.divisors
        self._stacked = parts.stacked
        self._frozen: tuple[str, ...] | None = None
        self._network = parts.describe()
        self._follow(parts)
        self._decide_batching()
        try_out(self, partial(MultiEncoderUNet.forward, self), parts)

    def forward(
        self,
        x: Tensor,
        source: Sequence[Tensor | None] | None = None,
        unlabelled: Tensor | None = None,
        features: bool = False,
    ) -> Any:
        """Logits of ``x``, with the maps that the relation losses need where they are asked for.

        Args:
            x: target images ``(B, C, *spatial)``.
            source: a batch of source images per general encoder, or None for one that has none.
            unlabelled: more target images, for the relations only: ``target`` and ``general`` then
                hold ``x``'s rows followed by theirs.
            features: return the maps also without ``source`` and ``unlabelled``.

        Returns:
            Logits, or [`MultiEncoderOutput`][relcons.MultiEncoderOutput] when ``source``,
            ``unlabelled`` or ``features`` is given.

        Raises:
            TypeError: ``source`` is a tensor.
            ValueError: an input's sizes do not fit the network, or ``source`` has another length than
                there are general encoders.
        """
        if isinstance(source, Tensor):
            raise TypeError("source must be a sequence with one batch or None per general encoder, got a tensor")
        sources = [None] * len(self.general_encoders) if source is None else list(source)
        if len(sources) != len(self.general_encoders):
            raise ValueError(
                f"source must hold one batch or None for each of {len(self.general_encoders)} general encoders, "
                f"got {len(sources)}"
            )
        labelled = [x] if unlabelled is None else [x, unlabelled]
        for name, batch in (("x", x), ("unlabelled", unlabelled), *(("source", batch) for batch in sources)):
            if batch is not None:
                check_size(name, batch, self._divisors)
        general = [
            self._encode(encoder, labelled if batch is None else [*labelled, batch])
            for encoder, batch in zip(self.general_encoders, sources, strict=True)
        ]
        logits, target = self._segment(labelled, [maps[0] for maps in general])
        if source is None and unlabelled is None and not features:
            return logits
        return MultiEncoderOutput(
            logits=logits,
            target=self._select(target),
            general=tuple(self._select(maps[: len(labelled)]) for maps in general),
            source=None
            if source is None
            else tuple(
                None if batch is None else self._select(maps[-1:]) for maps, batch in zip(general, sources, strict=True)
            ),
        )

    def freeze_general(self, freeze: bool = True) -> None:
        """Freeze the general encoders, norm statistics included and through ``.train()``, or thaw them.

        For methods whose losses never reach them; before DistributedDataParallel, which waits for a
        gradient of every parameter that is trainable when it wraps the model.
        """
        if freeze and self._frozen is None:
            trainable = [(name, p) for name, p in self.general_encoders.named_parameters() if p.requires_grad]
            for _, parameter in trainable:
                parameter.requires_grad_(False)
            self._frozen = tuple(name for name, _ in trainable)
            self.general_encoders.eval()
        elif not freeze and self._frozen is not None:
            for name in self._frozen:
                self.general_encoders.get_parameter(name).requires_grad_(True)
            self._frozen = None
            self.general_encoders.train(self.training)
        self._decide_batching()

    def train(self, mode: bool = True) -> "MultiEncoderUNet":
        """Training or evaluation mode; frozen general encoders stay in evaluation mode."""
        super().train(mode)
        if self._frozen is not None:
            self.general_encoders.eval()
        self._decide_batching()
        return self

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters as optimiser groups named ``general``, ``target`` and ``decoder`` (fusion and heads in it)."""
        groups: dict[str, list[nn.Module]] = {
            "general": [self.general_encoders],
            "target": [self.target_encoder],
            "decoder": self._decoding(),
        }
        return [
            {"name": name, "params": [p for module in modules for p in module.parameters()]}
            for name, modules in groups.items()
        ]

    def clip_sets(self) -> list[list[nn.Parameter]]:
        """Parameters to clip the gradients of, one norm for each set: those that the same losses reach.

        The general encoders, and target encoder with decoder, so that a relation's gradient cannot shrink
        the segmentation's step; all in one under ``route="joint"``, where that reaches all. In the order
        of ``parameter_groups``, frozen ones too: what has no gradient counts for nothing.
        """
        general, target, decoder = (group["params"] for group in self.parameter_groups())
        return [[*general, *target, *decoder]] if self.route == "joint" else [general, [*target, *decoder]]

    def routes(self) -> dict[str, list[nn.Module]]:
        """What each loss may move, for [`GradientRouter`][relcons.GradientRouter]."""
        segmentation: list[nn.Module] = [self.target_encoder, *self._decoding()]
        if self.route == "joint":
            segmentation.append(self.general_encoders)
        return {
            "segmentation": segmentation,
            "general": [self.general_encoders],
            "target": [self.target_encoder],
        }

    def extra_repr(self) -> str:
        """Arguments, for ``repr``."""
        return f"levels={self.levels}, fuse_levels={self.fusion.levels}, route={self.route!r}, outputs={self.outputs!r}"

    def _decoding(self) -> list[nn.Module]:
        heads = [] if self.classification_head is None else [self.classification_head]
        return [self.fusion, self.decoder, self.head, *heads]

    def _encode(self, encoder: nn.Module, batches: list[Tensor]) -> list[Sequence[Tensor]]:
        # Lightning, for one, puts modes back without a call of train().
        return encode(encoder, batches, may_share=self._together and self._decided_in == self.training)

    def _select(self, batches: Sequence[Sequence[Tensor]]) -> Levels:
        """Maps of the chosen levels, the rows of all batches under each other."""
        if len(batches) == 1:
            return tuple(batches[0][level] for level in self.levels)
        return tuple(torch.cat([maps[level] for maps in batches]) for level in self.levels)

    def _segment(
        self, batches: list[Tensor], generals: Sequence[Sequence[Tensor]]
    ) -> tuple[Any, list[Sequence[Tensor]]]:
        """Logits of the first batch, and the target encoder's maps of each."""
        if self.route == "paper":
            generals = [[features.detach() for features in maps] for maps in generals]
        encode, fuse = partial(self._encode, self.target_encoder), partial(self.fusion, generals=generals)
        logits, target = self._pass(batches, encode, fuse, self.decoder, self.head)
        if self.outputs == "auto":
            logits = self._uniform(logits)
        if self.classification_head is not None:
            logits = logits, self.classification_head(target[0][-1])
        return logits, target

    def _uniform(self, logits: Any) -> Any:
        """Outputs in the one form of every network: a list under deep supervision, a tensor in evaluation mode."""
        if self._stacked and self.decoder.training:
            logits = list(logits.unbind(1))
        if self.training or not isinstance(logits, list | tuple):
            return logits
        check_finest_first(logits)
        return logits[0]

    def _decide_batching(self) -> None:
        """Batches may share a pass through an encoder only if no layer mixes their statistics."""
        self._together = may_share_a_pass([self.target_encoder, *self.general_encoders])
        self._decided_in = self.training

    def _follow(self, parts: UNetParts) -> None:
        """Give what was built here net's mode, device and type; modes inside net stay as they are."""
        parameter = next(parts.encoder.parameters(), None)
        self.training = self.general_encoders.training = parts.training
        for module in (self.fusion, self.decoder, self.head):
            if module is parts.head or module is parts.decoder:
                continue
            module.train(parts.training)
            if parameter is not None:
                module.to(parameter.device, parameter.dtype)
