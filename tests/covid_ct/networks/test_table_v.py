import subprocess
import sys
from functools import partial

import pytest
from covidct.networks.table_v import NETWORKS


def test_the_recipe_shared_by_the_five() -> None:
    shared = {entry.recipe for name, entry in NETWORKS.items() if name != "inf-net"}
    (recipe,) = shared
    assert (recipe.size, recipe.learning_rate, recipe.batch, recipe.epochs) == (352, 1e-4, 16, 100)
    assert (recipe.edges, recipe.scales, recipe.clip_value, recipe.augmentation) == (False, (1.0,), None, "flips")
    assert (recipe.schedule, recipe.stretched) == ("constant", False)


def test_inf_nets_own_recipe() -> None:
    recipe = NETWORKS["inf-net"].recipe
    assert (recipe.size, recipe.learning_rate, recipe.batch, recipe.epochs) == (352, 1e-4, 24, 99)
    assert (recipe.scales, recipe.clip_value, recipe.augmentation) == ((0.75, 1.0, 1.25), 0.5, "none")
    assert (recipe.edges, recipe.schedule, recipe.stretched) == (True, "inf-net", True)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_size_fits(name: str) -> None:
    entry = NETWORKS[name]
    divisor = 2 ** (len(entry.features) - 1)
    assert divisor == (entry.build.func if isinstance(entry.build, partial) else entry.build).divisor
    assert entry.recipe.size % divisor == 0


def test_the_encoders_with_weights_from_imagenet() -> None:
    assert {name: entry.backbone for name, entry in NETWORKS.items() if entry.backbone} == {
        "dense-unet": "densenet161",
        "inf-net": "res2net50d",
    }


@pytest.mark.parametrize("name", ["u-net", "u-net++", "attention-unet", "gated-unet"])
def test_parameters(name: str) -> None:
    entry = NETWORKS[name]
    assert sum(p.numel() for p in entry.build().parameters()) == entry.parameters


@pytest.mark.slow
def test_the_table_imports_neither_timm_nor_monai() -> None:
    code = "import sys, covidct.networks.table_v; print({'timm', 'monai'} & set(sys.modules))"
    path = ":".join(sys.path)
    found = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "set()"
