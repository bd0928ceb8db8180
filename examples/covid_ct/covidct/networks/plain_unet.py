"""The 2D network of the paper's Table II."""

from collections.abc import Sequence

from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn


def plain_unet(features_per_stage: Sequence[int]) -> PlainConvUNet:
    """U-Net of two convolutions a stage, halved from stage to stage, with deep supervision and one output channel.

    Table II is 32, 64, 128, 256, 480, 480, 480: 29,966,118 parameters. Weights by nnU-Net's initialiser (He,
    slope 0.01). In training mode it returns the logits of every decoder stage, finest first.

    Source: Zhang et al. 2021, Table II; the two convolutions a stage, norm and slope are nnU-Net's.
    """
    stages = len(features_per_stage)
    net = PlainConvUNet(
        input_channels=1,
        n_stages=stages,
        features_per_stage=list(features_per_stage),
        conv_op=nn.Conv2d,
        kernel_sizes=3,
        strides=[1] + [2] * (stages - 1),
        n_conv_per_stage=2,
        num_classes=1,
        n_conv_per_stage_decoder=2,
        conv_bias=True,
        norm_op=nn.InstanceNorm2d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"negative_slope": 0.01, "inplace": True},
        deep_supervision=True,
    )
    net.apply(PlainConvUNet.initialize)
    return net
