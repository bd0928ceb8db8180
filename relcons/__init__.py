"""Losses on how features relate, and segmentation models with several encoders and one decoder."""

from importlib.metadata import version

from relcons import functional
from relcons.anchoring import RelationAnchor
from relcons.gap import RelationGap, RelationGaps, relation_gap, relation_gaps
from relcons.losses import (
    GeneralConsistencyLoss,
    RelationConsistencyLoss,
    RelationLoss,
    RelationTerms,
    TargetConsistencyLoss,
)
from relcons.models import DualEncoderOutput, DualEncoderUNet, MultiEncoderOutput, MultiEncoderUNet
from relcons.networks import split_unet
from relcons.parts import UNetParts
from relcons.relations import GramRelation, SampleRelation, SpatialRelation
from relcons.routing import GradientRouter
from relcons.schedules import ConstantWeight, CosineRampUp, GaussianRampUp, LinearRampUp

__all__ = [
    "ConstantWeight",
    "CosineRampUp",
    "DualEncoderOutput",
    "DualEncoderUNet",
    "GaussianRampUp",
    "GeneralConsistencyLoss",
    "GradientRouter",
    "GramRelation",
    "LinearRampUp",
    "MultiEncoderOutput",
    "MultiEncoderUNet",
    "RelationAnchor",
    "RelationConsistencyLoss",
    "RelationGap",
    "RelationGaps",
    "RelationLoss",
    "RelationTerms",
    "SampleRelation",
    "SpatialRelation",
    "TargetConsistencyLoss",
    "UNetParts",
    "functional",
    "relation_gap",
    "relation_gaps",
    "split_unet",
]

__version__ = version("relcons")
