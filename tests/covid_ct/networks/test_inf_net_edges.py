from pathlib import Path

import numpy as np
import pytest
from covidct.networks.inf_net_edges import canny_edges, gradient_edges
from numpy.typing import NDArray
from PIL import Image

MASK = """
####.###...#######......
#####.....#######.####..
#######...####....######
########..........######
########..........######
########...........#####
########...........#####
########............####
.#######................
####.....#..............
..##....####............
..##....#####...........
...#....#####......##...
...#....#####......##...
"""

# What cv2.Canny(mask, 10, 150) of OpenCV 5.0 gives for it.
CANNY = """
...#..##..#......####...
..........#....##....###
.....###..#####.........
.......#.........#......
.......#..........#.....
.......#..........#.....
.......#...........#....
#......#...........#####
#....###................
....#....##.............
##......#..##...........
..#....#....#...........
..#.#..#....#......##...
..#.#..#....#.....#.....
"""


def drawn(text: str) -> NDArray[np.uint8]:
    return np.array([[255 * (c == "#") for c in line] for line in text.split()], dtype=np.uint8)


@pytest.mark.parametrize(
    ("mask", "expected"),
    [(MASK, CANNY), ("####. ##... #...# #.###", "...#. .#... #...# #.#.."), ("###", "...")],
)
def test_canny_is_opencvs(mask: str, expected: str) -> None:
    found = canny_edges(drawn(mask))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, drawn(expected))


def test_gradient_by_hand() -> None:
    mask = drawn("...... ..##.. ..##.. ......")
    np.testing.assert_array_equal(gradient_edges(mask), drawn("..##.. .####. .####. ..##.."))


def test_gradient_of_one_pixel_spares_the_pixel() -> None:
    np.testing.assert_array_equal(gradient_edges(drawn("... .#. ...")), drawn(".#. #.# .#."))


def test_gradient_at_the_border() -> None:
    np.testing.assert_array_equal(gradient_edges(drawn("#.. #.. #..")), drawn("##. ##. ##."))


@pytest.mark.parametrize("edges", [canny_edges, gradient_edges])
def test_soft_maps_are_cut_above_128(edges: object) -> None:
    soft = np.where(drawn(MASK) > 0, 129, 128).astype(np.uint8)
    np.testing.assert_array_equal(edges(soft), edges(drawn(MASK)))  # type: ignore[operator]


@pytest.mark.parametrize("edges", [canny_edges, gradient_edges])
@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("shape", [(9, 7), (1, 5), (1, 1)])
def test_a_mask_of_one_value_has_no_edge(edges: object, value: int, shape: tuple[int, int]) -> None:
    assert not edges(np.full(shape, value, dtype=np.uint8)).any()  # type: ignore[operator]


def test_gradient_edges_are_those_that_covid_semiseg_ships(real_data: Path) -> None:
    labels = real_data / "covid_semiseg/Dataset/TrainingSet/LungInfection-Train/Doctor-label"
    masks = sorted((labels / "GT").iterdir())
    assert len(masks) == 50
    for path in masks:
        mask, shipped = (np.asarray(Image.open(file).convert("L")) for file in (path, labels / "Edge" / path.name))
        np.testing.assert_array_equal(gradient_edges(mask), shipped, err_msg=path.name)
