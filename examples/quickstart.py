"""A model with two encoders, trained on synthetic discs: seconds on a CPU."""

import segmentation_models_pytorch as smp
import torch

from relcons import DualEncoderUNet, GaussianRampUp, GramRelation, RelationLoss, relation_gap

STEPS, GRID = 20, torch.stack(torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij"))


def discs(radius: float) -> tuple[torch.Tensor, torch.Tensor]:
    mask = ((GRID - torch.randint(12, 52, (4, 2, 1, 1))).norm(dim=1, keepdim=True) < radius).float()
    return mask + 0.3 * torch.randn_like(mask), mask


torch.manual_seed(0)
batches = [(*discs(radius=10), discs(radius=4)[0]) for _ in range(STEPS)]
# --8<-- [start:loop]
net = smp.Unet("resnet18", encoder_weights=None, in_channels=1)  # or any supported network
model = DualEncoderUNet(net)  # net's encoder, a copy of it, net's decoder and head
segmentation, relation = smp.losses.DiceLoss("binary"), RelationLoss(weight=GaussianRampUp(STEPS), reduction="row_mean")
general, *others = model.parameter_groups()
general["lr"] = 1e-5  # at 1e-3 the general encoder soon relates all images alike: see "Choosing"
optimizer = torch.optim.AdamW([general, *others], lr=1e-3)
for x_target, y_target, x_source in batches:  # the source images need no labels
    out = model(x_target, source=x_source)
    loss = segmentation(out.logits, y_target) + relation(out)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    relation.step()  # lambda goes up
# --8<-- [end:loop]
image, mask = discs(radius=10)
found = model.eval()(image) > 0
print(f"Dice on new images: {2 * (found * mask).sum() / (found.sum() + mask.sum()):.2f}")
fresh, (one, _, other) = smp.Unet("resnet18", encoder_weights=None, in_channels=1), zip(*batches, strict=True)
for when, encoder in (("at the start", fresh.encoder), ("now", model.general_encoder)):
    gap = relation_gap(encoder.train(), one, other, relation=GramRelation(), bootstrap=0)
    print(f"Relations differ within discs by {gap.within_a:.2f} {when}, to noise by {gap.noise:.2f}")
