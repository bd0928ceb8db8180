"""The model card that lies beside saved weights."""

import json
from typing import Any

__all__ = ["write_card"]

_TEXT = """\
---
library_name: relcons
pipeline_tag: image-segmentation
{licence}tags:
- relcons
- image-segmentation
- semantic-segmentation
- pytorch
---

# {kind}

A segmentation model with {encoders} and one decoder, saved by relcons {version}.

## Loading

```python
from relcons import {kind}

model = {kind}.from_pretrained({call})
```

`folder` is this folder or its name on the hub. The model comes in evaluation mode.{own} The weights are in
`model.safetensors`; loading runs no code from these files.

## Network

```json
{network}
```

## Options

```json
{options}
```

## Training

Not described by the program that saved the model. Its author knows the data, the results, the intended use, the
limits{licence_too}.
"""
_OWN = """ `net` is
the network that the model was made of, built anew as it was (its weights do not matter): it is none that
relcons can build by name."""


def write_card(config: dict[str, Any], licence: str | None) -> str:
    """Card of a model with that configuration, with front matter that the hub reads."""
    network, generals = config["network"], config["options"]["generals"]
    return _TEXT.format(
        kind=config["class"],
        version=config["relcons"],
        encoders=f"{'one general encoder' if generals == 1 else f'{generals} general encoders'}, one target encoder",
        licence="" if licence is None else f"license: {json.dumps(licence)}\n",
        licence_too=" and the licence" if licence is None else "",
        call="folder" if network is not None else "folder, net=net",
        own="" if network is not None else _OWN,
        network=json.dumps(network, indent=2, ensure_ascii=False),
        options=json.dumps(config["options"], indent=2),
    )
