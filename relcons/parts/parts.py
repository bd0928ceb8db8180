"""The contract between a network and the multi-encoder models: encoder, decoder, head."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from relcons.parts.cut import Cut, cut_at
from relcons.parts.layers import copied, reset_parameters, small_inputs
from relcons.parts.observing import as_example

__all__ = ["Extra", "UNetParts", "read_channels", "wider"]

Extra = int | Sequence[int]
Maps = Sequence[Tensor]
Encode = Callable[[list[Tensor]], list[Maps]]
Fuse = Callable[[Maps], list[Tensor]]
Segmented = tuple[Any, list[Maps]]


@dataclass(frozen=True, eq=False)
class UNetParts:
    """A network as encoder, decoder and head: ``head(decoder(encoder(x)))``.

    Pass it where a supported network would go, to use a network of your own.

    Args:
        encoder: ``encoder(x)`` gives a list of maps ``(B, C, *spatial)``, finest first, bottleneck last.
        decoder: ``decoder(maps)`` takes that list. Of several outputs the finest comes first.
        head: takes what the decoder returns; None where the decoder returns the logits itself.
        channels: widths of that list; None reads ``encoder.out_channels``, ``encoder.output_channels``
            or ``encoder.feature_info``.
        widen: ``widen(extra)`` gives a fresh decoder whose bottleneck takes ``extra`` more channels;
            only ``fusion="concat"`` needs it. With ``fuse_levels`` beyond the bottleneck ``extra`` is a
            sequence with the additional channels of every map.

    Raises:
        TypeError: encoder, decoder or head is not a module, or ``widen`` is not callable.
        ValueError: ``channels`` is not given and the encoder does not tell them, or holds no width.

    Examples:
        >>> class Encoder(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.stages = nn.ModuleList([nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 16, 2, 2)])
        ...
        ...     def forward(self, x):
        ...         return [x := stage(x) for stage in self.stages]
        >>> class Decoder(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        ...
        ...     def forward(self, maps):
        ...         return self.up(maps[-1]) + maps[0]
        >>> parts = UNetParts(Encoder(), Decoder(), head=nn.Conv2d(8, 1, 1), channels=(8, 16))
        >>> DualEncoderUNet(parts)(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 1, 8, 8])
    """

    encoder: nn.Module
    decoder: nn.Module
    head: nn.Module | None = None
    channels: Sequence[int] | None = None
    widen: Callable[[Any], nn.Module] | None = None

    def __post_init__(self) -> None:
        for name, module in (("encoder", self.encoder), ("decoder", self.decoder), ("head", self.head)):
            if not isinstance(module, nn.Module) and not (name == "head" and module is None):
                raise TypeError(f"{name} must be a torch.nn.Module, got {type(module).__name__}")
        if self.widen is not None and not callable(self.widen):
            raise TypeError(f"widen must be a function from a number of channels to a decoder, got {self.widen!r}")
        channels = self.channels if self.channels is not None else read_channels(self.encoder)
        if channels is None:
            raise ValueError(
                f"channels is needed: {type(self.encoder).__name__} has none of out_channels, output_channels "
                "and feature_info; pass channels=, the widths of the encoder's maps, finest first"
            )
        widths = tuple(int(width) for width in channels)
        if not widths or min(widths) < 0 or widths[-1] == 0:
            raise ValueError(f"channels must be the widths of the encoder's maps, bottleneck last, got {widths}")
        object.__setattr__(self, "channels", widths)

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the encoder's maps, finest first."""
        return tuple(self.channels or ())

    @property
    def classification_head(self) -> nn.Module | None:
        """Head that reads the bottleneck, for networks that have one."""
        return None

    @property
    def stacked(self) -> bool:
        """Whether the outputs of deep supervision come in one tensor ``(B, outputs, C, *spatial)``, finest first."""
        return False

    @property
    def training(self) -> bool:
        """Mode in which a model made of the parts starts."""
        return self.encoder.training

    @property
    def divisors(self) -> tuple[int, ...] | None:
        """What each spatial size of the input must be a multiple of; None where nothing is known."""
        return None

    def examples(self) -> Iterator[Tensor]:
        """Small inputs, one of which the network should take: common sizes for the encoder's first convolution.

        With one that it takes, parameters that no output depends on are found and set to not
        trainable. Override it where the network wants another input.
        """
        yield from small_inputs(self.encoder)

    @staticmethod
    def segment(batches: list[Tensor], encode: Encode, fuse: Fuse, decoder: nn.Module, head: nn.Module) -> Segmented:
        """The network's pass: outputs of the first batch, and the target encoder's maps of every batch.

        ``encode`` gives the maps of batches, ``fuse`` makes of the first's what ``decoder`` takes. A model keeps
        this function and not the parts.
        """
        maps = encode(batches)
        return head(decoder(fuse(maps[0]))), maps

    def describe(self) -> dict[str, Any] | None:
        """The network as ``family``, ``class`` and ``arguments`` for ``config.json``; None where no table has it."""
        return None

    def copied_encoder(self) -> nn.Module:
        """Encoder of the same architecture with the same weights, sharing nothing."""
        return copied(self.encoder)

    def fresh_encoder(self) -> nn.Module:
        """Encoder of the same architecture with fresh weights, by every layer's own ``reset_parameters``.

        Raises:
            ValueError: a layer holds parameters and has no such method.
        """
        encoder = self.copied_encoder()
        reset_parameters(encoder)
        return encoder

    @staticmethod
    def at(net: nn.Module, name: str, *, example: Tensor | Sequence[int]) -> "UNetParts":
        """Parts of any network with a named bottleneck, for networks whose encoder and decoder are nested.

        The network is cut behind the module: in front of it, modules are the encoder's, all others the
        decoder's. The model runs ``net``'s own forward pass once, in a copy of the structure that shares
        the tensors, with the bottleneck swapped on the way; a general encoder is a copy that stops there.
        Modules behind the bottleneck are not in that copy, and its parameters that the bottleneck does
        not depend on are not trainable. ``fusion="concat"`` is not possible; in a ``net`` changed later
        (a module replaced, say) the model keeps the old one. Of what a module with children on both sides
        holds itself, parameters belong to one side and buffers to the target encoder; numbers and other
        plain attributes that a pass changes are each side's own. A model runs one pass at a time: threads
        need a copy each.

        Args:
            net: any network; it is neither copied nor changed.
            name: name of the bottleneck among ``net.named_modules()``: it runs once in a forward pass and
                returns one map ``(B, C, *spatial)``, channels second.
            example: a batch ``(B, C, *spatial)`` that ``net`` takes, or its shape: one pass of it finds width,
                resolution and what the bottleneck depends on.

        Returns:
            Parts with one level, the bottleneck.

        Raises:
            ValueError: there is no such module (the message lists candidates), it cannot be the
                bottleneck, ``net`` does not take ``example``, or ``net`` reaches the module by other ways
                than the attribute that names it.

        Examples:
            >>> class Nested(nn.Module):
            ...     def __init__(self):
            ...         super().__init__()
            ...         self.down, self.up = nn.Conv2d(8, 16, 2, 2), nn.ConvTranspose2d(16, 8, 2, 2)
            ...         self.first, self.last = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 1, 1)
            ...
            ...     def forward(self, x):
            ...         x = self.first(x)
            ...         return self.last(x + self.up(self.down(x)))
            >>> model = DualEncoderUNet(UNetParts.at(Nested(), "down", example=(1, 1, 8, 8)))
            >>> model(torch.rand(2, 1, 8, 8), source=torch.rand(2, 1, 8, 8)).general[0].shape
            torch.Size([2, 16, 4, 4])
        """
        if not isinstance(net, nn.Module):
            raise TypeError(f"net must be a torch.nn.Module, got {type(net).__name__}")
        batch = as_example(net, example)
        cut = cut_at(net, name, batch)
        return NestedParts(
            encoder=cut.encoder, decoder=cut.decoder, channels=(cut.bottleneck.shape[1],), net=net, cut=cut, batch=batch
        )


@dataclass(frozen=True, eq=False)
class NestedParts(UNetParts):
    """Parts of a network cut at its bottleneck, see `UNetParts.at`."""

    net: nn.Module = field(kw_only=True)
    cut: Cut = field(kw_only=True)
    batch: Tensor = field(kw_only=True)

    @property
    def training(self) -> bool:
        """Mode of the network."""
        return self.net.training

    @property
    def resolution(self) -> tuple[int, ...]:
        """Spatial size of the bottleneck for the example."""
        return tuple(self.cut.bottleneck.shape[2:])

    def examples(self) -> Iterator[Tensor]:
        """The example."""
        yield self.batch

    @staticmethod
    def segment(batches: list[Tensor], encode: Encode, fuse: Fuse, decoder: nn.Module, head: nn.Module) -> Segmented:
        """One pass of the whole network, inside which alone the bottleneck exists, to be fused there."""
        output, bottleneck = decoder(batches[0], lambda bottleneck: fuse([bottleneck])[0])
        return head(output), [[bottleneck], *encode(batches[1:])]

    def copied_encoder(self) -> nn.Module:
        """Encoder that holds all that it runs."""
        return copied(self.cut.general)


def wider(channels: Sequence[int], extra: Extra) -> tuple[int, ...]:
    """Widths with ``extra`` added: to the bottleneck's alone, or to every map's where it is a sequence."""
    extras = [*[0] * (len(channels) - 1), extra] if isinstance(extra, int) else extra
    return tuple(width + more for width, more in zip(channels, extras, strict=True))


def read_channels(encoder: nn.Module) -> Sequence[int] | None:
    """Widths of an encoder's maps where it tells them as smp, DNA or timm encoders do, else None."""
    for name in ("out_channels", "output_channels"):
        value = getattr(encoder, name, None)
        if isinstance(value, Sequence) and not isinstance(value, str):
            return value
    info = getattr(encoder, "feature_info", None)
    return list(info.channels()) if info is not None and hasattr(info, "channels") else None
