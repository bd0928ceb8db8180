import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from covidct.errors import InputError
from covidct.phantoms import volume_set
from covidct.phantoms.chests import windowed
from covidct.phantoms.volume_chests import Frame, source_volume, target_volume
from covidct.phantoms.volume_set import MSD, NEARLY_EMPTY, NSCLC, volume_phantom_root, write_volume_phantoms
from covidct.sets.splits import published
from scipy import ndimage

SPLITS = published()
FOLDS = SPLITS["covid20_task1_folds"]["folds"]
NAMES = frozenset({"coronacases_001", "radiopaedia_14_85914_0", NEARLY_EMPTY, "lung_001", "LUNG1-001"})
KINDS = ("COVID-19-CT-Seg_20cases", "Infection_Mask", "Lung_Mask", "Lung_and_Infection_Mask")
SMALL = Frame(96, 96, 4.2, 8.0)


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def canonical(path: Path) -> np.ndarray:
    return np.asarray(nibabel.as_closest_canonical(nibabel.load(path)).dataobj)


def overlap(mask: np.ndarray) -> float:
    """Mean Dice of neighbouring slices, weighted by their areas: 1 for a prism, near the share for unrelated slices."""
    both = (mask[..., 1:] & mask[..., :-1]).sum()
    return float(2 * both / (mask[..., 1:].sum() + mask[..., :-1].sum()))


@pytest.fixture(scope="module")
def some(tmp_path_factory):
    return write_volume_phantoms(tmp_path_factory.mktemp("volumes"), only=NAMES)


@pytest.fixture(scope="module")
def target():
    return target_volume(0, 0, 0, SMALL, 0.12)


@pytest.fixture
def quick(monkeypatch):
    """Makes `volume_phantom_root` write no volume, in no time."""

    def write(root, *, seed, progress):
        write_volume_phantoms(root, seed=seed, only=frozenset())
        if progress is not None:
            progress(1, 1)

    monkeypatch.setattr(volume_set, "write_volume_phantoms", write)


# Layout


def test_the_published_folds_apply_to_the_names_unchanged():
    names = {scan.name for scan in volume_set._scans() if scan.part == "target"}
    assert len(names) == 20
    for fold in FOLDS:
        assert set(fold["train"]) | set(fold["test"]) == names


@pytest.mark.parametrize(("part", "key"), [("msd", "msd_lung"), ("nsclc", "nsclc_pe")])
def test_sources_have_cases_of_both_published_divisions(part, key):
    names = {scan.name for scan in volume_set._scans() if scan.part == part}
    train, val = names & set(SPLITS[key]["train"]), names & set(SPLITS[key]["val"])
    assert train | val == names
    assert len(train) >= 5
    assert len(val) >= 1


def test_the_layout_is_the_published_one(some):
    targets = {"coronacases_001.nii.gz", "radiopaedia_14_85914_0.nii.gz", f"{NEARLY_EMPTY}.nii.gz"}
    assert {path.name for path in (some / "target").iterdir()} == set(KINDS)
    for kind in KINDS:
        assert {path.name for path in (some / "target" / kind).iterdir()} == targets
    files = {str(path.relative_to(some / "source")) for path in (some / "source").rglob("*") if path.is_file()}
    assert files == {
        "msd/Task06_Lung/dataset.json",
        "msd/Task06_Lung/imagesTr/lung_001.nii.gz",
        "msd/Task06_Lung/labelsTr/lung_001.nii.gz",
        "nsclc/imagesTr/LUNG1-001_0000.nii.gz",
        "nsclc/labelsTr/LUNG1-001.nii.gz",
    }
    dataset = json.loads((some / MSD / "dataset.json").read_text())
    assert dataset["numTraining"] == 1
    assert dataset["training"] == [{"image": "./imagesTr/lung_001.nii.gz", "label": "./labelsTr/lung_001.nii.gz"}]


def test_image_and_masks_share_one_anisotropic_grid(some):
    pairs = [
        (path, some / "target" / kind / path.name)
        for path in (some / "target" / KINDS[0]).iterdir()
        for kind in KINDS[1:]
    ]
    pairs += [
        (some / MSD / "imagesTr/lung_001.nii.gz", some / MSD / "labelsTr/lung_001.nii.gz"),
        (some / NSCLC / "imagesTr/LUNG1-001_0000.nii.gz", some / NSCLC / "labelsTr/LUNG1-001.nii.gz"),
    ]
    for path, other in pairs:
        image, mask = nibabel.load(path), nibabel.load(other)
        assert image.shape == mask.shape
        np.testing.assert_array_equal(image.affine, mask.affine)
        x, y, z = image.header.get_zooms()
        assert x == pytest.approx(y)
        assert 3 < x < 4.5
        assert 6 <= z <= 10
        assert 96 <= image.shape[0] <= 120
        assert 20 <= image.shape[2] <= 50


def test_coronacases_are_hu_and_radiopaedia_are_windowed(some):
    folder = some / "target" / KINDS[0]
    hu = nibabel.load(folder / "coronacases_001.nii.gz")
    assert nibabel.aff2axcodes(hu.affine) == ("L", "P", "S")
    values = np.asarray(hu.dataobj)
    assert values.dtype == np.int16
    assert values.min() < -1000
    assert values.max() > 400
    for name in ("radiopaedia_14_85914_0", NEARLY_EMPTY):
        image = nibabel.load(folder / f"{name}.nii.gz")
        assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
        values = np.asarray(image.dataobj)
        assert values.dtype == np.uint8
        assert values.max() == 255
        assert 20 < np.median(values[values < 100]) < 60, "air and lung"


def test_one_scan_is_not_square_as_the_published_one(some):
    width, depth, _ = nibabel.load(some / "target" / KINDS[0] / "radiopaedia_14_85914_0.nii.gz").shape
    assert depth == int(0.66 * width)


@pytest.mark.parametrize("name", ["coronacases_001", "radiopaedia_14_85914_0", NEARLY_EMPTY])
def test_masks_agree(some, name):
    lesion, lungs, both = (canonical(some / "target" / kind / f"{name}.nii.gz") for kind in KINDS[1:])
    assert set(np.unique(lesion)) == {0, 1}
    assert set(np.unique(lungs)) == {0, 1, 2}
    assert (lungs[lesion > 0] > 0).all()
    np.testing.assert_array_equal(both, np.where(lesion > 0, 3, lungs))
    # The first canonical axis runs to the patient's right; label 1 is the left lung.
    left, right = (np.argwhere(lungs == label)[:, 0].mean() for label in (1, 2))
    assert left < right


def test_one_case_is_nearly_empty(some):
    lesion = canonical(some / "target" / "Infection_Mask" / f"{NEARLY_EMPTY}.nii.gz")
    assert 5 <= lesion.sum() <= 60
    lungs = canonical(some / "target" / "Lung_Mask" / f"{NEARLY_EMPTY}.nii.gz")
    assert lesion.sum() < 0.001 * (lungs > 0).sum()


# Bytes


def test_a_volume_depends_on_seed_and_name_alone(some, tmp_path):
    calls = []
    only = frozenset({NEARLY_EMPTY})
    progress = lambda done, total: calls.append((done, total))  # noqa: E731
    one = contents(write_volume_phantoms(tmp_path / "one", only=only, progress=progress))
    assert calls == [(1, 1)]
    other = contents(write_volume_phantoms(tmp_path / "other", seed=1, only=only))
    volumes = {name: data for name, data in one.items() if name.endswith(".gz")}
    assert len(volumes) == 4
    assert volumes == {name: data for name, data in contents(some).items() if name in volumes}
    assert all(other[name] != data for name, data in volumes.items())


# Volumes


def test_lungs_and_lesions_are_coherent_along_z(target):
    assert overlap(target.lungs > 0) > 0.9
    lesion = target.lesion
    assert overlap(lesion) > 0.68
    areas = lesion.sum(axis=(0, 1)).astype(int)
    assert np.abs(np.diff(areas)).sum() < 0.35 * areas.sum()
    assert overlap(lesion) > 2 * overlap(lesion[..., np.random.default_rng(0).permutation(lesion.shape[2])])
    # Most of the lesions lies in pieces that span several slices.
    labels, count = ndimage.label(lesion)
    spans = [np.ptp(np.nonzero(labels == k)[2]) + 1 for k in range(1, count + 1)]
    sizes = np.bincount(labels.ravel())[1:]
    assert np.average(spans, weights=sizes) >= 4


def test_lungs_end_inside_the_scan(target):
    areas = (target.lungs > 0).sum(axis=(0, 1))
    assert areas[-2:].tolist() == [0, 0]
    assert areas[0] < 0.1 * areas.max()
    assert areas[1:].argmax() in range(len(areas) // 4, 3 * len(areas) // 4)
    litres = (target.lungs > 0).sum() * np.prod(np.diag(np.abs(target.affine))[:3]) / 1e6
    assert 2.5 < litres < 8.5


def test_lesions_fill_the_asked_share_and_are_denser_than_lung(target):
    lung = target.lungs > 0
    assert target.lesion.sum() / lung.sum() == pytest.approx(0.12, rel=0.12)
    healthy, ill = np.median(target.hu[lung & ~target.lesion]), np.median(target.hu[target.lesion])
    assert -950 < healthy < -700
    assert healthy + 60 < ill < 0


def test_lesions_lie_near_the_wall_and_at_the_back():
    volumes = [target_volume(1, k, k, SMALL, 0.08) for k in range(3)]
    back = np.mean([np.argwhere(v.lesion)[:, 1].mean() - np.argwhere(v.lungs > 0)[:, 1].mean() for v in volumes])
    assert back > 2, "voxels to the back"
    depth = [ndimage.distance_transform_edt(v.lungs > 0, sampling=(4.2, 4.2, 8)) for v in volumes]
    ill = np.mean([d[v.lesion].mean() for d, v in zip(depth, volumes, strict=True)])
    all_lung = np.mean([d[v.lungs > 0].mean() for d, v in zip(depth, volumes, strict=True)])
    assert ill < all_lung


def test_two_scans_of_one_patient_share_the_anatomy_and_not_the_lesions(target):
    again = target_volume(0, 0, 1, SMALL, 0.12)
    other = target_volume(0, 1, 1, SMALL, 0.12)
    np.testing.assert_array_equal(target.lungs, again.lungs)
    assert (target.lesion != again.lesion).any()
    assert other.lungs.shape != target.lungs.shape or (other.lungs != target.lungs).mean() > 0.01


def test_noise_is_correlated_along_z(target):
    # Air in front of the body, above the table.
    air = target.hu[10:-10, 1:4]
    air = air - air.mean(axis=(0, 1))
    neighbours = (air[..., 1:] * air[..., :-1]).mean() / air.var()
    apart = (air[..., 3:] * air[..., :-3]).mean() / air.var()
    assert 0.25 < neighbours < 0.55
    assert abs(apart) < 0.15


@pytest.mark.parametrize(
    ("kind", "low", "high", "smallest", "largest"),
    [("nodule", -250, 110, 0.5, 15), ("mass", -60, 110, 8, 250), ("effusion", -60, 60, 40, 1200)],
)
def test_sources_hold_one_lesion_of_their_kind(kind, low, high, smallest, largest):
    for patient in range(2):
        volume = source_volume(5, patient, SMALL, kind)
        assert (volume.lungs[volume.lesion] > 0).all()
        assert low < np.median(volume.hu[volume.lesion]) < high
        millilitres = volume.lesion.sum() * np.prod(np.diag(np.abs(volume.affine))[:3]) / 1000
        assert smallest < millilitres < largest
        labels, _ = ndimage.label(volume.lesion)
        assert np.bincount(labels.ravel())[1:].max() > 0.9 * volume.lesion.sum()


def test_the_window_is_that_of_the_published_scans():
    np.testing.assert_array_equal(windowed(np.array([-2000.0, -1250, -500, 250, 3000])), [0, 0, 128, 255, 255])


# Cache


def test_the_cache_is_filled_once(quick, tmp_path, monkeypatch):
    root = volume_phantom_root(tmp_path)
    assert root == tmp_path / "relcons" / "phantom-3d-v1-seed0"
    monkeypatch.setattr(volume_set, "write_volume_phantoms", None)
    assert volume_phantom_root(tmp_path) == root
    assert [path.name for path in root.parent.iterdir()] == [root.name]


def test_an_interrupted_generation_leaves_nothing(quick, tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        volume_phantom_root(tmp_path, progress=stop)
    assert list((tmp_path / "relcons").iterdir()) == []


def test_an_unusable_cache_is_named(quick, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"phantom-3d-v1-seed0: .* \(Not a directory\); .*XDG_CACHE_HOME"):
        volume_phantom_root(tmp_path / "file")


@pytest.mark.slow
def test_the_whole_set_spreads_lesion_volumes_as_patients_do(tmp_path):
    root = write_volume_phantoms(tmp_path)
    assert sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) < 100e6
    shares = {}
    for path in (root / "target" / "Infection_Mask").iterdir():
        lungs = canonical(root / "target" / "Lung_Mask" / path.name) > 0
        shares[path.name.removesuffix(".nii.gz")] = (canonical(path) > 0).sum() / lungs.sum()
    assert len(shares) == 20
    assert 0 < shares.pop(NEARLY_EMPTY) < 0.001 < min(shares.values())
    assert min(shares.values()) < 0.02
    assert max(shares.values()) > 0.3
    assert 0.02 < np.median(list(shares.values())) < 0.2
    for folder in (MSD, NSCLC):
        for path in (root / folder / "labelsTr").iterdir():
            assert canonical(path).max() == 1, path.name
