import numpy as np
import pytest
import torch
from covidct.errors import InputError
from covidct.networks.plain_unet import plain_unet
from covidct.slices.inference import predict_probability, read_picture
from covidct.slices.sampling import normalise, resize_image
from PIL import Image
from torch import nn


class Pixelwise(nn.Module):
    """Logits are the pixels themselves: what comes out says where every pixel went."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.shapes, self.trained, self.autocast = [], [], []

    def forward(self, x):
        self.shapes.append(tuple(x.shape))
        self.trained.append(self.training)
        self.autocast.append(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None)
        return x * self.scale


class Ramp(nn.Module):
    """Logits grow with row and column, whatever the picture is."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        rows, columns = torch.arange(x.shape[2]), torch.arange(x.shape[3])
        return (self.scale * (0.1 * rows[:, None] + 0.03 * columns)).expand(x.shape)


def picture(shape, seed=0):
    return np.random.default_rng(seed).uniform(0, 255, shape).astype(np.float32)


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


@pytest.mark.parametrize("resize", [True, False])
@pytest.mark.parametrize("shape", [(32, 32), (45, 37), (13, 70), (7, 5), (1, 1)])
def test_any_size_comes_back_in_its_size(shape, resize):
    torch.manual_seed(0)
    probability = predict_probability(plain_unet((4, 8)), picture(shape), size=(32, 32), resize=resize, flips=True)
    assert probability.shape == shape
    assert probability.dtype == np.float32
    assert 0 <= probability.min() <= probability.max() <= 1


@pytest.mark.parametrize("shape", [(32, 48), (20, 90), (15, 11)])
def test_sliding_window_puts_every_pixel_back_in_its_place(shape):
    image = picture(shape)
    probability = predict_probability(Pixelwise(), image, size=(24, 16), resize=False, flips=True)
    np.testing.assert_allclose(probability, sigmoid(normalise(image)), atol=1e-5)


def test_sliding_windows_overlap_by_half():
    model = Pixelwise()
    predict_probability(model, picture((32, 96)), size=(32, 32), resize=False)
    assert model.shapes == [(1, 1, 32, 32)] * 5


def test_slice_is_normalised_and_resized_as_in_training():
    image, model = picture((50, 70)), Pixelwise()
    probability = predict_probability(model, image, size=(24, 32), resize=True)
    assert model.shapes == [(1, 1, 24, 32)]
    small = resize_image(torch.from_numpy(normalise(image))[None, None], (24, 32)).sigmoid()
    np.testing.assert_allclose(probability, resize_image(small, (50, 70))[0, 0], atol=1e-6)


def test_resizing_shifts_nothing():
    # A step edge, twice as large as the network's input, must come back where it was.
    image = np.zeros((40, 60), np.float32)
    image[:, 30:] = 255
    model = Pixelwise()
    model.scale.data *= 20
    probability = predict_probability(model, image, size=(20, 30), resize=True)
    np.testing.assert_array_equal(probability > 0.5, image > 0)


def test_brightness_and_contrast_do_not_matter():
    image = picture((20, 20))
    one, two = (
        predict_probability(Pixelwise(), values, size=(20, 20), resize=True) for values in (image, image / 3 + 40)
    )
    np.testing.assert_allclose(one, two, atol=1e-5)


@pytest.mark.parametrize("resize", [True, False])
def test_flips_are_the_mean_of_four_mirrorings(resize):
    image = picture((8, 6))
    probability = predict_probability(Ramp(), image, size=(8, 6), resize=resize, flips=True)
    ramp = sigmoid(0.1 * np.arange(8)[:, None] + 0.03 * np.arange(6))
    expected = (ramp + ramp[::-1] + ramp[:, ::-1] + ramp[::-1, ::-1]) / 4
    np.testing.assert_allclose(probability, expected, atol=1e-6)
    alone = predict_probability(Ramp(), image, size=(8, 6), resize=resize, flips=False)
    np.testing.assert_allclose(alone, ramp, atol=1e-6)


def test_first_of_several_outputs_counts():
    class Supervised(Pixelwise):
        def forward(self, x):
            return [super().forward(x), torch.zeros_like(x)[..., ::2, ::2]]

    image = picture((10, 10))
    probability = predict_probability(Supervised(), image, size=(10, 10), resize=True)
    np.testing.assert_allclose(probability, sigmoid(normalise(image)), atol=1e-6)


def test_runs_in_eval_mode_and_restores_every_module():
    class WithFrozen(Pixelwise):
        def __init__(self):
            super().__init__()
            self.frozen, self.free = nn.Dropout(), nn.Dropout()
            self.modes = []

        def train(self, mode=True):
            self.modes.append(mode)
            return super().train(mode)

    model = WithFrozen()
    model.train()
    model.frozen.eval()
    model.modes.clear()
    predict_probability(model, picture((8, 8)), size=(8, 8), resize=True)
    assert model.trained == [False]
    assert (model.training, model.frozen.training, model.free.training) == (True, False, True)
    # Through train(), where models decide what depends on the mode.
    assert model.modes == [False, True]
    model.eval()
    predict_probability(model, picture((8, 8)), size=(8, 8), resize=True)
    assert not any(module.training for module in model.modules())


def test_mode_is_restored_after_an_error():
    class Broken(Pixelwise):
        def forward(self, x):
            raise RuntimeError("broken")

    model = Broken().train()
    with pytest.raises(RuntimeError, match="broken"):
        predict_probability(model, picture((8, 8)), size=(8, 8), resize=True)
    assert model.training


@pytest.mark.parametrize(("precision", "dtype"), [("32", None), ("bf16", torch.bfloat16), ("16", torch.float16)])
def test_precision_is_autocast(precision, dtype):
    model = Pixelwise()
    probability = predict_probability(model, picture((8, 8)), size=(8, 8), resize=True, precision=precision)
    assert model.autocast == [dtype]
    assert probability.dtype == np.float32


def test_bf16_stays_near_full_precision():
    torch.manual_seed(0)
    model, image = plain_unet((4, 8)), picture((32, 32))
    full, half = (predict_probability(model, image, size=(32, 32), resize=True, precision=p) for p in ("32", "bf16"))
    assert 0 < np.abs(full - half).max() < 0.02


def test_nan_output_is_given_back_as_nan():
    model = Pixelwise()
    model.scale.data *= np.nan
    assert np.isnan(predict_probability(model, picture((8, 8)), size=(8, 8), resize=True)).all()


@pytest.mark.parametrize("shape", [(3, 8, 8), (8,), (0, 4)])
def test_other_than_one_slice_is_refused(shape):
    with pytest.raises(ValueError, match="one slice"):
        predict_probability(Pixelwise(), np.zeros(shape, np.float32), size=(8, 8), resize=True)


def test_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="32, bf16, 16, got 'fp8'"):
        predict_probability(Pixelwise(), picture((8, 8)), size=(8, 8), resize=True, precision="fp8")


def save(path, values):
    Image.fromarray(values).save(path)
    return path


def test_read_picture_keeps_8_bits(tmp_path):
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    values = read_picture(save(tmp_path / "a.png", grey))
    np.testing.assert_array_equal(values, grey)
    assert values.dtype == np.float32


def test_read_picture_turns_colour_to_luma(tmp_path):
    colour = np.zeros((2, 2, 3), np.uint8)
    colour[0, 0] = (200, 0, 0)
    colour[1, 1] = (0, 200, 0)
    values = read_picture(save(tmp_path / "a.png", colour))
    np.testing.assert_allclose(values, [[0.299 * 200, 0], [0, 0.587 * 200]], atol=1)


def test_read_picture_scales_16_bits(tmp_path):
    deep = np.array([[0, 257, 65535], [2570, 5140, 25700]], np.uint16)
    np.testing.assert_allclose(read_picture(save(tmp_path / "a.png", deep)), [[0, 1, 255], [10, 20, 100]])


def test_read_picture_takes_8_bits_in_16(tmp_path):
    deep = np.array([[0, 7], [9, 255]], np.uint16)
    np.testing.assert_array_equal(read_picture(save(tmp_path / "a.png", deep)), deep)


def test_read_picture_refuses_raw_scanner_values(tmp_path):
    path = save(tmp_path / "raw.png", np.array([[24, 1024], [2000, 4095]], np.uint16))
    with pytest.raises(InputError, match=r"raw\.png.*values up to 4095.*lung window"):
        read_picture(path)


@pytest.mark.parametrize("name", ["scan.nii.gz", "notes.txt"])
def test_read_picture_refuses_other_files_by_name(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError, match=f"{name} is not a picture by its name; expected .jpg"):
        read_picture(tmp_path / name)


def test_read_picture_refuses_a_cut_file(tmp_path):
    path = save(tmp_path / "a.png", np.random.default_rng(0).integers(0, 65535, (50, 50)).astype(np.uint16))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match=r"a\.png cannot be read"):
        read_picture(path)


def test_read_picture_names_a_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"none\.png is missing"):
        read_picture(tmp_path / "none.png")


def test_orientation_and_frames(tmp_path):
    values = np.random.default_rng(0).integers(5000, 65536, (6, 9)).astype(np.uint16)
    exif = Image.Exif()
    exif[0x112] = 6
    Image.fromarray(values).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_allclose(read_picture(tmp_path / "a.png"), np.rot90(values, -1) / 257, rtol=1e-6)
    pages = [Image.fromarray(values)] * 3
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(InputError, match=r"a\.tif holds 3 frames"):
        read_picture(tmp_path / "a.tif")
