import numpy as np
import pytest
from covidct.run.paper import MEASURES, TABLES
from covidct.run.scores import PROTOCOLS
from covidct.run.systems import SYSTEMS
from covidct.slices import metrics as slice_metrics
from covidct.volumes import metrics as volume_metrics

# Averages that the paper itself does not print as the mean of its folds (.698, .7404, .7412).
SLIPS = {("Ours (L_G)", "dsc"), ("Ours (L_T)", "nsd"), ("Ours (L_G)", "nsd")}


@pytest.mark.parametrize("name", ["III", "IV"])
def test_printed_folds_average_to_the_printed_mean(name):
    for row in TABLES[name].rows:
        for measure, figure in row.figures.items():
            assert len(figure.folds) == 5
            # Folds are rounded to 0.0005 and so is their mean.
            if (row.title, measure) not in SLIPS:
                assert np.mean(figure.folds) == pytest.approx(figure.mean, abs=0.00101), (row.title, measure)


def test_some_figures_of_the_paper():
    # From Section V of the text: 70.3 and 74.2 %, 3.0 and 4.2 % above training from scratch.
    ours, scratch = TABLES["IV"].row("Ours-3D").figures, TABLES["IV"].row("3D nnUNet").figures
    assert (ours["dsc"].mean, ours["nsd"].mean) == (0.703, 0.742)
    assert ours["dsc"].mean - scratch["dsc"].mean == pytest.approx(0.030)
    assert ours["nsd"].mean - scratch["nsd"].mean == pytest.approx(0.042)
    assert scratch["dsc"].deviation == 0.223
    un = TABLES["V"].row("Ours-2D-UN").figures
    assert [un[measure].mean for measure in MEASURES["slices"]] == [0.767, 0.839, 0.957, 0.055]
    lits = TABLES["VI"].row("LiTS / liver tumor").figures
    assert [lits[measure].mean for measure in MEASURES["slices"]] == [0.711, 0.782, 0.942, 0.074]


@pytest.mark.parametrize(("name", "rows"), [("III", 5), ("IV", 6), ("V", 10), ("VI", 5)])
def test_every_row_is_there_once_with_every_figure(name, rows):
    table = TABLES[name]
    assert len({row.title for row in table.rows}) == len(table.rows) == rows
    assert len({(row.method, row.source) for row in table.rows}) == rows
    assert all(set(row.figures) == set(MEASURES[table.kinds[0]]) for row in table.rows)
    assert table.row(table.reference) in table.rows


def test_names_are_those_of_the_scores():
    assert tuple(MEASURES["volumes"]) == volume_metrics.MEASURES
    assert tuple(MEASURES["slices"]) == slice_metrics.MEASURES
    assert set(PROTOCOLS["slices"]) == set(slice_metrics.PER_IMAGE)


@pytest.mark.parametrize("name", ["III", "IV"])
def test_methods_of_volumes_are_systems(name):
    assert {row.method for row in TABLES[name].rows} <= set(SYSTEMS)
