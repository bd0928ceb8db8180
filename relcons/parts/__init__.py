"""A network as encoder, decoder and head: the contract between networks and models."""

from relcons.parts.parts import UNetParts

__all__ = ["UNetParts"]
