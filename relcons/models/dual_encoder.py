"""The paper's model: one general encoder, one target encoder and one decoder."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from relcons.models.build import FusionKind, General
from relcons.models.multi_encoder import Levels, MultiEncoderOutput, MultiEncoderUNet, Outputs, Route
from relcons.parts.parts import UNetParts

__all__ = ["DualEncoderOutput", "DualEncoderUNet"]


class DualEncoderOutput(NamedTuple):
    """What [`DualEncoderUNet`][relcons.DualEncoderUNet] returns in training; maps are tuples, one per level."""

    logits: Any
    target: Levels
    general: Levels
    source: Levels | None


class DualEncoderUNet(MultiEncoderUNet):
    """One general encoder, one target encoder and one decoder: the paper's model, of a network you have.

    The case ``generals=1`` of [`MultiEncoderUNet`][relcons.MultiEncoderUNet], which lists the
    arguments; ``source`` is a tensor and the output's maps are tuples, one per level. The paper's own
    is ``DualEncoderUNet(net, general="reset", fusion="concat")``.

    Source: Zhang et al. 2021, Section III-A and Fig. 2.

    Examples:
        >>> import segmentation_models_pytorch as smp
        >>> model = DualEncoderUNet(smp.Unet("resnet18", encoder_weights=None, in_channels=1))
        >>> output = model(torch.rand(2, 1, 64, 64), source=torch.rand(2, 1, 64, 64))
        >>> loss = output.logits.mean() + RelationLoss(weight=0.1)(output)
        >>> loss.backward()
    """

    def __init__(
        self,
        net: nn.Module | UNetParts,
        *,
        general: General | nn.Module = "copy",
        fusion: FusionKind = "project",
        levels: Sequence[int] = (-1,),
        fuse_levels: Sequence[int] = (-1,),
        route: Route = "paper",
        outputs: Outputs = "auto",
    ) -> None:
        super().__init__(
            net,
            generals=1,
            general=general,
            fusion=fusion,
            levels=levels,
            fuse_levels=fuse_levels,
            route=route,
            outputs=outputs,
        )

    @property
    def general_encoder(self) -> nn.Module:
        """The general encoder."""
        return self.general_encoders[0]

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        source: Tensor | None = None,
        unlabelled: Tensor | None = None,
        features: bool = False,
    ) -> Any:
        """Logits of ``x``, with the maps that the relation losses need where they are asked for.

        Args:
            x: target images X^c, ``(B, C, *spatial)``.
            source: source images X^n of any batch size.
            unlabelled: more target images, for the relations only: ``target`` and ``general`` then
                hold ``x``'s rows followed by theirs.
            features: return the maps also without ``source`` and ``unlabelled``.

        Returns:
            Logits, or [`DualEncoderOutput`][relcons.DualEncoderOutput] when ``source``,
            ``unlabelled`` or ``features`` is given.

        Raises:
            TypeError: ``source`` is not a tensor.
            ValueError: an input's sizes do not fit the network.
        """
        if source is not None and not isinstance(source, Tensor):
            raise TypeError(
                f"source must be a batch (B, C, *spatial), got {type(source).__name__}; "
                "one per general encoder is what MultiEncoderUNet takes"
            )
        output = super().forward(x, None if source is None else (source,), unlabelled, features)
        if not isinstance(output, MultiEncoderOutput):
            return output
        return DualEncoderOutput(
            output.logits,
            output.target,
            output.general[0],
            None if output.source is None else output.source[0],
        )
