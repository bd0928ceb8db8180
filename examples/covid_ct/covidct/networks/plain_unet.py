"""The networks of the paper's Tables I and II."""

from collections.abc import Sequence

from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn

CONVOLUTIONS = {2: (nn.Conv2d, nn.InstanceNorm2d), 3: (nn.Conv3d, nn.InstanceNorm3d)}


def plain_unet(
    features_per_stage: Sequence[int],
    *,
    axes: int = 2,
    strides: Sequence[Sequence[int]] = (),
    kernel_sizes: Sequence[Sequence[int]] = (),
) -> PlainConvUNet:
    """U-Net of two convolutions a stage with deep supervision and one output channel, in 2D or 3D.

    Table II is 32, 64, 128, 256, 480, 480, 480 in 2D: 29,966,118 parameters. Table I is 32, 64, 128, 256, 320, 320 in
    3D with the strides and kernels of preset `paper`: 30,702,693. Weights by nnU-Net's initialiser (He, slope 0.01). In
    training mode it returns the logits of every decoder stage, finest first.

    axes: 2 or 3.
    strides: of each stage, per axis; left out: halved along every axis from stage to stage.
    kernel_sizes: of each stage, per axis; left out: 3 along every axis.

    Source: Zhang et al. 2021, Tables I and II; the two convolutions a stage, norm and slope are nnU-Net's.
    """
    stages = len(features_per_stage)
    convolution, norm = CONVOLUTIONS[axes]
    net = PlainConvUNet(
        input_channels=1,
        n_stages=stages,
        features_per_stage=list(features_per_stage),
        conv_op=convolution,
        kernel_sizes=[list(size) for size in kernel_sizes] or 3,
        strides=[list(stride) for stride in strides] or [1] + [2] * (stages - 1),
        n_conv_per_stage=2,
        num_classes=1,
        n_conv_per_stage_decoder=2,
        conv_bias=True,
        norm_op=norm,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"negative_slope": 0.01, "inplace": True},
        deep_supervision=True,
    )
    net.apply(PlainConvUNet.initialize)
    return net
