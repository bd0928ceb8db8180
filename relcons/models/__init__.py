"""Segmentation models with several encoders and one decoder."""

from relcons.models.multi_encoder import (
    DualEncoderOutput,
    DualEncoderUNet,
    MultiEncoderOutput,
    MultiEncoderUNet,
)
from relcons.models.parts import UNetParts

__all__ = ["DualEncoderOutput", "DualEncoderUNet", "MultiEncoderOutput", "MultiEncoderUNet", "UNetParts"]
