"""Models that are kept in folders and on the hub; what that needs is imported when it is called."""

import os
from collections.abc import Sequence
from typing import Self

from torch import nn

from relcons.models.build import General
from relcons.parts.parts import UNetParts

__all__ = ["Pretrained"]


class Pretrained(nn.Module):
    """Base of models that are saved with what they were built of, and built again from that."""

    def save_pretrained(self, folder: str | os.PathLike[str], *, license: str | None = None) -> None:
        """Write ``config.json``, ``model.safetensors`` and a model card, each whole or not at all.

        Networks of segmentation_models_pytorch and dynamic-network-architectures are written as names and
        arguments, so that ``from_pretrained`` builds them; any other, MONAI's included, and one that was
        changed after it was built must be given there as ``net``.

        Args:
            folder: made where it is missing; a ``README.md`` in it stays as it is.
            license: what the hub calls the licence of your weights, such as ``"apache-2.0"``; for the card.

        Raises:
            ValueError: ``folder`` is a file.
        """
        from relcons.models import shipping

        shipping.save(self, folder, license)

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        net: nn.Module | UNetParts | None = None,
        *,
        general: General | nn.Module | Sequence[General | nn.Module] = "copy",
        revision: str | None = None,
        token: str | None = None,
    ) -> Self:
        """Model of a folder or of the hub: equal outputs, the same parameters trainable, in evaluation mode.

        Nothing in the files is run: networks are built from fixed tables of names, weights are read
        by safetensors. Call ``.train()`` to go on training.

        Args:
            path: folder that ``save_pretrained`` wrote, or a name on the hub such as ``"user/model"``
                (``HF_HUB_OFFLINE=1`` keeps to its cache).
            net: the network, built as it was, where the file names none; the model takes its modules
                and overwrites their weights.
            general: general encoders, where they were your own and of another architecture than net's.
            revision: commit, branch or tag on the hub; None takes the newest.
            token: of the hub; None takes the one that ``hf auth login`` stored.

        Raises:
            ValueError: there is no such folder, a file in it is missing, truncated, foreign or does not
                fit the network, or holds more general encoders than a ``DualEncoderUNet`` has.
            ImportError: the network's library is not installed.

        Examples:
            >>> import tempfile
            >>> import segmentation_models_pytorch as smp
            >>> net = smp.Unet("resnet18", encoder_weights=None, in_channels=1)
            >>> model, x = DualEncoderUNet(net).eval(), torch.rand(1, 1, 64, 64)
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     model.save_pretrained(folder)
            ...     loaded = DualEncoderUNet.from_pretrained(folder)
            >>> torch.equal(loaded(x), model(x))
            True
        """
        from relcons.models import shipping

        model: Self = shipping.load(path, net, general, cls, revision, token)
        return model

    def push_to_hub(
        self,
        name: str,
        *,
        license: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        message: str = "Model saved by relcons",
    ) -> str:
        """Upload what ``save_pretrained`` writes.

        Args:
            name: name on the hub, such as ``"user/model"``; made where it is missing. A card that is
                there stays.
            license: as for ``save_pretrained``.
            private: whether a repository made here is private; None: as your account says.
            token: None takes the one that ``hf auth login`` stored.
            message: of the commit.

        Returns:
            Address of the commit.

        Raises:
            ValueError: ``name`` is no name on the hub.
        """
        from relcons.models import shipping

        return shipping.push(self, name, licence=license, private=private, token=token, message=message)
