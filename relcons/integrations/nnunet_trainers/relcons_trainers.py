"""What nnU-Net finds in this folder, which ``nnUNet_extTrainer`` names; it imports every module here."""

# Not defined here: nnU-Net forgets the modules of this folder, and their own classes could not be pickled.
from relcons.integrations.nnunet import (
    nnUNetTrainerRelCons,
    nnUNetTrainerRelConsBaseline,
    nnUNetTrainerRelConsGeneral,
    nnUNetTrainerRelConsTarget,
)

__all__ = [
    "nnUNetTrainerRelCons",
    "nnUNetTrainerRelConsBaseline",
    "nnUNetTrainerRelConsGeneral",
    "nnUNetTrainerRelConsTarget",
]
