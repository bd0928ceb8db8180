"""Losses on how features relate, and segmentation models with several encoders and one decoder.

A training step is one forward and one backward pass:

    model = relcons.DualEncoderUNet(net)  # net: a network of smp, nnU-Net's or MONAI's, or UNetParts of your own
    relation = relcons.RelationLoss(weight=relcons.GaussianRampUp(total_steps))

    out = model(x_target, source=x_source)  # the source images need no labels
    loss = segmentation(out.logits, y_target) + relation(out)
    loss.backward()
    optimizer.step()
    relation.step()

Models: DualEncoderUNet, MultiEncoderUNet (and what they return, DualEncoderOutput, MultiEncoderOutput); UNetParts
makes one of any network, split_unet shows the parts of a known one.
Losses: RelationLoss takes a model's output; GeneralConsistencyLoss and TargetConsistencyLoss take two feature maps;
GramRelation is the relation that all compare by default; functional has the formulas.
Their weight: ConstantWeight, GaussianRampUp, LinearRampUp, CosineRampUp.
Who may move what: GradientRouter.

Importing relcons loads torch and nothing else. Imported by their own names: relcons.plot (pictures of relation
matrices) and relcons.integrations.lightning and .nnunet (trainers).
"""

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
