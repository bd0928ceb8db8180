"""Models saved and loaded: equal outputs from a folder that runs nothing, one clear message for any other."""

import json
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import segmentation_models_pytorch as smp
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from dynamic_network_architectures.building_blocks.residual import BottleneckD
from monai.networks.nets import SegResNet
from safetensors.torch import load_file, save_file
from torch import nn

from relcons import DualEncoderUNet, MultiEncoderUNet, split_unet
from relcons.networks import build_network
from tests.models.checking import assert_same, different
from tests.models.networks import (
    BATCH_NORMS,
    CONVS,
    SMP,
    SWIN,
    Case,
    TinyEncoder,
    dna_case,
    dna_net,
    nested_case,
    own_case,
    smp_case,
    smp_net,
)

NAMED = [
    smp_case("Unet"),
    smp_case("Unet", "resnet18", encoder_depth=3, decoder_channels=(16, 12, 8)),
    smp_case("Segformer", "mit_b0"),  # cannot be built on the meta device
    *[
        pytest.param(case, marks=pytest.mark.slow)
        for case in [*[smp_case(name) for name in SMP if name != "Unet"], smp_case("UPerNet", **SWIN)]
    ],
    dna_case(PlainConvUNet, 2, True),
    dna_case(PlainConvUNet, 3, False),
    dna_case(ResidualEncoderUNet, 2, False),
    dna_case(ResidualEncoderUNet, 3, True),
]
FUSIONS = ["project", "concat"]


def tiny_net(**options: Any) -> nn.Module:
    return dna_net(PlainConvUNet, deep_supervision=False, features=(2, 4), **options)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "saved"
    different(tiny_net()).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A saved model, to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "saved"))


def change(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    config = json.loads((folder / "config.json").read_text())
    edit(config)
    (folder / "config.json").write_text(json.dumps(config))


def assert_round_trip(model: MultiEncoderUNet, case: Case, folder: Path, **given: Any) -> MultiEncoderUNet:
    model.eval()
    model.save_pretrained(folder)
    loaded = type(model).from_pretrained(folder, **given)
    x = case.batch()
    assert_same(loaded(x), model(x))
    assert_same(
        {name: p.requires_grad for name, p in loaded.named_parameters()},
        {name: p.requires_grad for name, p in model.named_parameters()},
    )
    assert not any(layer.training for layer in loaded.modules())
    return loaded


# Smoke


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("case", NAMED, ids=str)
def test_named_networks_come_back_without_a_net(case: Case, fusion: str, tmp_path: Path) -> None:
    model = different(case.build(), general="reset", fusion=fusion)
    assert_round_trip(model, case, tmp_path)


@pytest.mark.parametrize("case", [own_case(1), own_case(3), nested_case(2)], ids=str)
def test_other_networks_come_back_with_net(case: Case, tmp_path: Path) -> None:
    assert_round_trip(different(case.build()), case, tmp_path, net=case.build())
    with pytest.raises(
        ValueError, match=r"config\.json names no network.*pass it as from_pretrained\(path, net=\.\.\.\)"
    ):
        DualEncoderUNet.from_pretrained(tmp_path)


def test_networks_of_monai_come_back_with_net(tmp_path: Path) -> None:
    def build() -> nn.Module:
        return SegResNet(2, init_filters=8, in_channels=1, out_channels=2, blocks_down=(1, 1), blocks_up=(1,))

    case = Case("SegResNet", build, (1, 16, 16))
    assert_round_trip(different(build()), case, tmp_path, net=build())
    with pytest.raises(ValueError, match="names no network"):
        DualEncoderUNet.from_pretrained(tmp_path)


def test_general_encoders_of_your_own(tmp_path: Path) -> None:
    class Other(TinyEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.coarse = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(4, 6, 1))

    case = own_case(2)
    assert_round_trip(different(case.build(), general=Other()), case, tmp_path, net=case.build(), general=Other())
    with pytest.raises(ValueError, match=r"model\.safetensors does not match the model.*general="):
        DualEncoderUNet.from_pretrained(tmp_path, net=case.build())


# Cardinality


def test_every_option_comes_back(tmp_path: Path) -> None:
    model = MultiEncoderUNet(
        dna_net(), generals=2, fusion="concat", levels=(-1, 0), fuse_levels=(-1, 1), route="joint", outputs="native"
    )
    loaded = assert_round_trip(model, dna_case(PlainConvUNet, 2, True), tmp_path)
    assert repr(loaded) == repr(model)
    assert isinstance(loaded(torch.rand(1, 1, 16, 16)), list)


def test_a_class_loads_as_itself(folder: Path, tmp_path: Path) -> None:
    class Own(DualEncoderUNet):
        pass

    several, x = MultiEncoderUNet.from_pretrained(folder), torch.rand(2, 1, 16, 16)
    assert type(several) is MultiEncoderUNet
    dual = DualEncoderUNet.from_pretrained(folder)
    assert_same(several(x, source=(x,)).source[0], dual(x, source=x).source)
    assert type(Own.from_pretrained(folder)) is Own
    several.save_pretrained(tmp_path / "one")
    assert type(DualEncoderUNet.from_pretrained(tmp_path / "one")) is DualEncoderUNet
    MultiEncoderUNet(tiny_net(), generals=2).save_pretrained(tmp_path / "two")
    with pytest.raises(ValueError, match=r"is of a MultiEncoderUNet; load it by MultiEncoderUNet\.from_pretrained"):
        DualEncoderUNet.from_pretrained(tmp_path / "two")


def test_freezing_comes_back_and_can_be_undone(tmp_path: Path) -> None:
    model = different(dna_net(deep_supervision=False))
    next(model.general_encoder.parameters()).requires_grad_(False)
    before = [p.requires_grad for p in model.parameters()]
    model.freeze_general()
    loaded = assert_round_trip(model, dna_case(PlainConvUNet, 2, False), tmp_path)
    loaded.train()
    assert not loaded.general_encoder.training
    loaded.freeze_general(False)
    assert [p.requires_grad for p in loaded.parameters()] == before
    assert not all(before)


def test_deep_supervision_switched_after_building_comes_back(tmp_path: Path) -> None:
    model = different(dna_net(deep_supervision=True), outputs="native")
    model.decoder.deep_supervision = False
    loaded = assert_round_trip(model, dna_case(PlainConvUNet, 2, True), tmp_path)
    assert isinstance(loaded(torch.rand(1, 1, 16, 16)), torch.Tensor)
    loaded.decoder.deep_supervision = True  # its heads are trainable still
    assert all(p.requires_grad for p in loaded.decoder.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_types_of_the_weights_come_back(dtype: torch.dtype, tmp_path: Path) -> None:
    model = different(tiny_net(norm_op=nn.BatchNorm2d)).to(dtype)
    model.save_pretrained(tmp_path)
    loaded = DualEncoderUNet.from_pretrained(tmp_path)
    assert_same(dict(loaded.state_dict()), dict(model.state_dict()))


def test_names_that_a_block_repeats_are_saved_once(folder: Path) -> None:
    saved = load_file(folder / "model.safetensors")
    loaded = DualEncoderUNet.from_pretrained(folder)
    assert len(saved) == len(list(loaded.parameters()))
    assert len(saved) < len(loaded.state_dict())


def test_a_classification_head_comes_back(tmp_path: Path) -> None:
    net = smp_net(**SMP["Unet"], aux_params={"classes": 3, "dropout": 0.1})
    assert_round_trip(different(net), smp_case("Unet"), tmp_path)


def test_saving_runs_no_network(tmp_path: Path) -> None:
    model, passes = DualEncoderUNet(dna_net(), general="reset", fusion="concat"), []
    hook = torch.nn.modules.module.register_module_forward_hook(lambda *_: passes.append(1))
    try:
        model.save_pretrained(tmp_path)
    finally:
        hook.remove()
    assert passes == []
    assert json.loads((tmp_path / "config.json").read_text())["network"] is not None


def test_random_state_stays(tmp_path: Path) -> None:
    model = DualEncoderUNet(tiny_net())
    state = torch.get_rng_state()
    model.save_pretrained(tmp_path)
    DualEncoderUNet.from_pretrained(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)


def test_saved_again_files_are_replaced_and_a_card_stays(folder: Path) -> None:
    (folder / "README.md").write_text("mine")
    model = different(tiny_net())
    model.save_pretrained(folder)
    assert_same(DualEncoderUNet.from_pretrained(folder).state_dict(), model.state_dict())
    assert (folder / "README.md").read_text() == "mine"
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_a_save_that_breaks_leaves_what_was_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full_disk(model: nn.Module, path: str, **options: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("safetensors.torch.save_model", full_disk)
    with pytest.raises(OSError, match="No space left"):
        different(tiny_net()).save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


# Reference


@pytest.mark.parametrize(
    "options",
    [
        {"nonlin_first": True},
        {"dropout_op": nn.Dropout2d, "dropout_op_kwargs": {"p": 0.3}},
        {"norm_op": nn.BatchNorm2d, "norm_op_kwargs": {"momentum": 0.3}, "nonlin": nn.GELU, "nonlin_kwargs": None},
        {"conv_bias": False, "kernel_sizes": [[3, 1], 5, 3], "strides": [1, [2, 1], 2]},
        {"norm_op": None, "norm_op_kwargs": None},
        {"n_conv_per_stage": [1, 2, 3], "n_conv_per_stage_decoder": [2, 1]},
    ],
    ids=lambda options: next(iter(options)),
)
def test_plain_arguments_are_read_back(options: dict[str, Any]) -> None:
    net = dna_net(PlainConvUNet, deep_supervision=False, **options)
    assert repr(rebuilt(net)) == repr(net)


@pytest.mark.parametrize(
    "options",
    [
        {"block": BottleneckD, "bottleneck_channels": [2, 3, 4]},
        {"stem_channels": 3},
        {"n_blocks_per_stage": [1, 3, 2]},
        {"conv_op": CONVS[0], "norm_op": BATCH_NORMS[0]},
    ],
    ids=lambda options: next(iter(options)),
)
def test_residual_arguments_are_read_back(options: dict[str, Any]) -> None:
    net = dna_net(ResidualEncoderUNet, **options)
    assert repr(rebuilt(net)) == repr(net)


def rebuilt(net: nn.Module) -> nn.Module:
    parts = split_unet(net)
    described = json.loads(json.dumps(parts.describe()))
    other = build_network(described["family"], described["class"], described["arguments"])
    split_unet(other)  # which gives names to lambdas
    return other


def change_dropout(net: nn.Module) -> nn.Module:
    for layer in net.modules():
        if isinstance(layer, nn.modules.dropout._DropoutNd):
            layer.p = 0.9
    return net


class OwnUnet(smp.Unet):
    pass


class OwnOp(nn.LeakyReLU):
    pass


@pytest.mark.parametrize(
    "build",
    [
        lambda: change_dropout(tiny_net(dropout_op=nn.Dropout2d, dropout_op_kwargs={"p": 0.1})),
        lambda: tiny_net(nonlin=OwnOp),
        lambda: OwnUnet("tu-test_resnet", encoder_weights=None, in_channels=1, **SMP["Unet"]),
    ],
    ids=["changed", "own-layer", "own-class"],
)
def test_networks_that_names_do_not_give_are_asked_for(build: Callable[[], nn.Module], tmp_path: Path) -> None:
    model = different(build())
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="names no network"):
        DualEncoderUNet.from_pretrained(tmp_path)
    loaded = DualEncoderUNet.from_pretrained(tmp_path, net=build())
    x = torch.rand(1, 1, 64, 64)
    assert_same(loaded(x), model.eval()(x))
    assert "from_pretrained(folder, net=net)" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    "part", [None, "target_encoder", "general_encoders.0", "fusion", "decoder", "head", "classification_head"]
)
def test_a_model_changed_anywhere_is_asked_for(part: str | None, tmp_path: Path) -> None:
    model = DualEncoderUNet(smp_net("Unet", aux_params={"classes": 3}, **SMP["Unet"]))
    if part is not None:
        next(iter([*model.get_submodule(part).children(), model.get_submodule(part)])).add_module("more", nn.ReLU())
    model.save_pretrained(tmp_path)
    assert (json.loads((tmp_path / "config.json").read_text())["network"] is None) == (part is not None)


# Exception


def test_the_folder_must_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"folder must be a folder, got the file .*file"):
        DualEncoderUNet(tiny_net()).save_pretrained(tmp_path / "file")
    for path in (tmp_path / "missing", tmp_path / "file", "no such name", "./missing"):
        with pytest.raises(ValueError, match=r"path must be a folder that save_pretrained wrote or a hub name"):
            DualEncoderUNet.from_pretrained(path)
    with pytest.raises(TypeError, match="path must be a folder or a hub name, got int"):
        DualEncoderUNet.from_pretrained(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_files(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"saved holds no {name}; give a folder that save_pretrained wrote"):
        DualEncoderUNet.from_pretrained(folder)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_weights(folder: Path, keep: int) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:keep])
    with pytest.raises(ValueError, match=r"model\.safetensors is truncated or no safetensors file .* anew"):
        DualEncoderUNet.from_pretrained(folder)


def test_pickled_weights_are_not_run(folder: Path) -> None:
    torch.save({"weight": torch.ones(1)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors is truncated or no safetensors file"):
        DualEncoderUNet.from_pretrained(folder)


def test_an_absurd_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    with pytest.raises(ValueError, match="is truncated or no safetensors file"):
        DualEncoderUNet.from_pretrained(folder)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda weights: weights.pop("fusion.1.weight"), r"it has no 'fusion\.1\.weight'"),
        (lambda weights: weights.update(other=torch.ones(1)), "'other', which the model lacks"),
        (
            lambda weights: weights.update({"fusion.1.bias": torch.ones(9)}),
            r"'fusion\.1\.bias' of shape \(9,\) where the model has \(4,\)",
        ),
    ],
    ids=["missing", "additional", "shape"],
)
def test_weights_of_another_model(folder: Path, edit: Callable[[dict[str, Any]], Any], message: str) -> None:
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match=rf"model\.safetensors does not match the model: .*{message}.*pass a net="):
        DualEncoderUNet.from_pretrained(folder)


@pytest.mark.parametrize("text", ["", "{", '{"format": 1', "\x00"])
def test_truncated_configuration(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json cannot be read .* anew"):
        DualEncoderUNet.from_pretrained(folder)


def without(config: dict[str, Any], key: str) -> None:
    del config[key]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (dict.clear, "was not written by relcons"),
        (lambda c: c.update({"class": "Other"}), "was not written by relcons"),
        (lambda c: c["options"].pop("route"), "was not written by relcons"),
        (lambda c: c.update(network=[1]), "was not written by relcons"),
        (lambda c: c.update(format=2), "has format 2, expected 1; install a newer relcons"),
        (lambda c: c["options"].update(route="other"), "does not fit its network or net: route must be one of"),
        (lambda c: c["options"].update(levels=[7]), "does not fit its network or net: levels must be indices"),
        (lambda c: c["not_trainable"].append([]), "was not written by relcons"),
        (lambda c: c["not_trainable"].append("other"), "not_trainable names 'other', which the model lacks"),
        (lambda c: c["network"]["arguments"].pop("n_stages"), "its network cannot be built"),
        (lambda c: c["network"]["arguments"].update(strides=[1]), "its network cannot be built"),
    ],
)
def test_foreign_configuration(folder: Path, edit: Callable[[dict[str, Any]], Any], message: str) -> None:
    change(folder, edit)
    with pytest.raises(ValueError, match=rf"config\.json:? .*{message}"):
        DualEncoderUNet.from_pretrained(folder)


# What a configuration may name


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda n: n.update(family="os"), "network of family 'os'"),
        (lambda n: n.update(family="monai"), "networks of MONAI are not built by name"),
        (
            lambda n: n.update({"class": "AbstractDynamicNetworkArchitectures"}),
            "known of dynamic-network-architectures",
        ),
        (lambda n: n["arguments"].update(conv_op="torch.nn.Conv2d"), "conv_op 'torch.nn.Conv2d'; known are"),
        (lambda n: n["arguments"].update(nonlin="os.system"), "nonlin 'os.system'; known are"),
        (lambda n: n["arguments"].update(norm_op=["BatchNorm2d"]), "its network cannot be built"),
    ],
)
def test_names_of_no_table_are_refused(folder: Path, edit: Callable[[dict[str, Any]], Any], message: str) -> None:
    change(folder, lambda config: edit(config["network"]))
    with pytest.raises(ValueError, match=rf"config\.json: .*{message}"):
        DualEncoderUNet.from_pretrained(folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"encoder_name": "tu-hf-hub:someone/model"}, "encoder_name"),
        ({"encoder_name": "tu-local-dir:/tmp"}, "encoder_name"),
        ({"encoder_name": "other"}, "encoder_name"),
        ({"encoder_name": ["resnet18"]}, "encoder_name"),
        ({"encoder_name": "tu-test_resnet", "checkpoint_path": "x.pth"}, "checkpoint_path"),
        ({"encoder_name": "tu-test_resnet", "pretrained": True}, "pretrained"),
        ({"encoder_name": "tu-test_resnet", "pretrained_cfg": {"file": "x.pth"}}, "pretrained_cfg"),
    ],
    ids=str,
)
def test_nothing_beside_the_network_is_loaded(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_network("segmentation_models_pytorch", "Unet", arguments)
    with pytest.raises(ValueError, match="known of segmentation_models_pytorch are"):
        build_network("segmentation_models_pytorch", "from_pretrained", arguments)


def test_pretrained_weights_are_not_fetched() -> None:
    arguments = {"encoder_name": "resnet18", "encoder_weights": "imagenet", "in_channels": 1}
    net = build_network("segmentation_models_pytorch", "Unet", arguments)  # without a network this would fail
    assert isinstance(net, smp.Unet)


def test_a_library_that_is_not_installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "relcons.networks.dna")
    monkeypatch.setitem(sys.modules, "dynamic_network_architectures.architectures.unet", None)
    with pytest.raises(ImportError, match=r'needs dynamic_network_architectures .*; pip install "relcons\[dna\]"'):
        DualEncoderUNet.from_pretrained(folder)


# The hub, without a network


def test_card_is_valid_for_the_hub(tmp_path: Path) -> None:
    DualEncoderUNet(tiny_net()).save_pretrained(tmp_path, license="apache-2.0")
    card = huggingface_hub.ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "relcons"
    assert card.data.pipeline_tag == "image-segmentation"
    assert card.data.license == "apache-2.0"
    assert "relcons" in card.data.tags
    assert "DualEncoderUNet.from_pretrained(folder)" in card.text
    assert "one general encoder, one target encoder" in card.text


def test_card_claims_no_licence_unasked(folder: Path) -> None:
    assert huggingface_hub.ModelCard.load(folder / "README.md").data.license is None


class Commit:
    commit_url = "https://hub/commit"


class FakeApi:
    """Keeps the calls and the files."""

    calls: list[tuple[str, Any]]
    card = False

    def __init__(self, token: str | None = None) -> None:
        self.calls.append(("token", token))

    def create_repo(self, name: str, *, private: bool | None, exist_ok: bool) -> None:
        self.calls.append(("create", (name, private, exist_ok)))

    def file_exists(self, name: str, file: str) -> bool:
        return self.card

    def upload_folder(
        self, *, repo_id: str, folder_path: str, commit_message: str, ignore_patterns: list[str] | None
    ) -> Commit:
        names = sorted(path.name for path in Path(folder_path).iterdir())
        self.calls.append(("upload", (repo_id, names, commit_message, ignore_patterns)))
        return Commit()


@pytest.mark.parametrize("card", [False, True])
def test_push(card: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeApi, "calls", [], raising=False)
    monkeypatch.setattr(FakeApi, "card", card)
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi)
    model = DualEncoderUNet(tiny_net())
    assert model.push_to_hub("user/model", private=True, token="t", message="First") == "https://hub/commit"
    files = ["README.md", "config.json", "model.safetensors"]
    assert FakeApi.calls == [
        ("token", "t"),
        ("create", ("user/model", True, True)),
        ("upload", ("user/model", files, "First", ["README.md"] if card else None)),
    ]
    with pytest.raises(ValueError, match="name must be a hub name such as \"user/model\", got 'model'"):
        model.push_to_hub("model")


def test_a_name_is_fetched_from_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def snapshot(name: str, **arguments: Any) -> str:
        asked.append((name, arguments))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    DualEncoderUNet.from_pretrained("user/model")
    DualEncoderUNet.from_pretrained("user/model", revision="v1", token="secret")
    files = {"allow_patterns": ["config.json", "model.safetensors"]}
    assert asked == [
        ("user/model", {"revision": None, "token": None, **files}),
        ("user/model", {"revision": "v1", "token": "secret", **files}),
    ]


def test_offline_a_name_that_is_not_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"'user/model' is no folder here and could not be fetched .* HF_HUB_OFFLINE"):
        DualEncoderUNet.from_pretrained("user/model")
