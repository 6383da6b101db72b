"""Cuts: what they see, and what of them is refused. That staging and generation obey them is tested with these."""

import numpy as np
import pytest

from kantor.cuts import Cuts
from kantor.errors import ConfigError

COLUMNS = {
    "px": np.array([3.0, 0.0, 1.0, -1.0]),
    "pz": np.array([4.0, 2.0, -5.0, np.nan]),
    "hits": np.array([[1.0, 0.0], [2.0, 2.0], [0.0, 0.0], [1.0, 1.0]]),
}


def test_rows_pass_where_every_cut_holds() -> None:
    cuts = Cuts(["E > 2", "pt2 >= 1", "sum(hits) > 0"], {"pt2": "px**2", "E": "sqrt(pt2 + pz**2)"})
    assert cuts.passing(COLUMNS).tolist() == [True, False, False, False]
    each = cuts.each(COLUMNS)
    assert list(each) == ["E > 2", "pt2 >= 1", "sum(hits) > 0"]
    # 2 is not above 2, and NaN is above nothing.
    assert each["E > 2"].tolist() == [True, False, True, False]
    assert each["pt2 >= 1"].tolist() == [True, False, True, True]


def test_without_cuts_every_row_passes() -> None:
    assert not Cuts([])
    assert Cuts([]).passing(COLUMNS).tolist() == [True] * 4
    assert Cuts(["px > 0"])
    assert Cuts(["1 > 0"]).passing(COLUMNS).all()


@pytest.mark.parametrize(
    ("cuts", "quantities", "said"),
    [
        (["Q2 > 2"], {}, "unknown column 'Q2'"),
        (["Q2 > 2"], {"Q2": "px * qz"}, "unknown column 'qz'"),
        (["E > 2"], {"E": "pt", "pt": "px"}, "unknown column 'pt'"),
        (["px > 0"], {"px": "pz"}, "'px' is a column, and a quantity"),
        (["px"], {}, "is a number, not a condition"),
        (["hits > 0"], {}, "gives 2 answers for a row"),
    ],
)
def test_what_is_no_cut_of_these_columns_is_refused(cuts: list[str], quantities: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        Cuts(cuts, quantities).passing(COLUMNS)
    assert error.value.cure
