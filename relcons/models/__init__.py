"""Segmentation models with several encoders and one decoder."""

from relcons.models.dual_encoder import DualEncoderOutput, DualEncoderUNet
from relcons.models.multi_encoder import MultiEncoderOutput, MultiEncoderUNet

__all__ = ["DualEncoderOutput", "DualEncoderUNet", "MultiEncoderOutput", "MultiEncoderUNet"]
