"""Tables and series: numbers as written, errors with lines, scales, seasons, forecasts by their formula."""

import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from minirnn.data.forecasting import base_forecasts, seasonal_period
from minirnn.data.tables import Scaler, parse_table, read_table
from minirnn.errors import DataError, ShapeError

# Monthly totals of airline passengers 1949 to 1960 in thousands (Box & Jenkins 1976, series G).
AIRLINE = np.array([
    112, 118, 132, 129, 121, 135, 148, 148, 136, 119, 104, 118,
    115, 126, 141, 135, 125, 149, 170, 170, 158, 133, 114, 140,
    145, 150, 178, 163, 172, 178, 199, 199, 184, 162, 146, 166,
    171, 180, 193, 181, 183, 218, 230, 242, 209, 191, 172, 194,
    196, 196, 236, 235, 229, 243, 264, 272, 237, 211, 180, 201,
    204, 188, 235, 227, 234, 264, 302, 293, 259, 229, 203, 229,
    242, 233, 267, 269, 270, 315, 364, 347, 312, 274, 237, 278,
    284, 277, 317, 313, 318, 374, 413, 405, 355, 306, 271, 306,
    315, 301, 356, 348, 355, 422, 465, 467, 404, 347, 305, 336,
    340, 318, 362, 348, 363, 435, 491, 505, 404, 359, 310, 337,
    360, 342, 406, 396, 420, 472, 548, 559, 463, 407, 362, 405,
    417, 391, 419, 461, 472, 535, 622, 606, 508, 461, 390, 432,
], float)  # fmt: skip
SCALER = Scaler.fit(np.zeros((2, 3)))


def write(folder: Path, text: str) -> str:
    (folder / "t.csv").write_bytes(text.encode())
    return str(folder / "t.csv")


def test_quotes_spaces_and_line_ends_of_a_table(tmp_path: Path) -> None:
    text = '\ufeff"Month", "a ""b"", c",last\r\n"1949-01",1,2.5\r\n "1949\n-02",-3e2," 4 "\r\n1949-03,+.5,1E-3\r\n\r\n'
    table = read_table(write(tmp_path, text))
    assert table.header == ("Month", 'a "b", c', "last")
    assert len(table) == table.rows == 3
    assert table.columns(["last", 'a "b", c']).tolist() == [[2.5, 1], [4, -300], [0.001, 0.5]]
    assert table.columns(["last"]).dtype == np.float64
    assert table.columns([]).shape == (3, 0)
    assert text not in repr(table)


@pytest.mark.parametrize(
    ("delimiter", "text", "header"),
    [
        (",", "a,b;c\n1,2", ("a", "b;c")),
        (";", "a;b,c;d\n1;2,5;3", ("a", "b,c", "d")),
        ("\t", "a\tb\n1\t2", ("a", "b")),
        (",", "a\n1", ("a",)),
        (",", '"b;c;d",a\n2,1\n', ("b;c;d", "a")),
    ],
)
def test_delimiter_is_found_in_the_header(delimiter: str, text: str, header: tuple[str, ...]) -> None:
    table = parse_table("x", text)
    assert table == type(table)("x", header, 1, delimiter, text)
    assert table.columns(["a"]).tolist() == [[1]]


def test_text_without_a_header_is_refused() -> None:
    for text in ("", "\n"):
        with pytest.raises(DataError, match=r"^x:1: expected a header with the names of the columns, got an empty l"):
            parse_table("x", text)


def test_rows_are_located_by_their_first_line() -> None:
    table = parse_table("x.csv", '"a\nb",c\n1,"2\n"\n3,4\n5,6\n')
    assert [table.where(row) for row in range(3)] == ["x.csv:3", "x.csv:5", "x.csv:6"]


@pytest.mark.parametrize(
    ("rows", "name"), [("1,2,x\n3,4,5", "b"), ("1,,\n3,4,5", "a"), ("1,2, 3 ", "c"), ("1,2,nan\n1,2,3", "b")]
)
def test_last_column_with_numbers(rows: str, name: str) -> None:
    """The first row decides; a cell below it that is not a number is an error to report."""
    assert parse_table("x", "a,b,c\n" + rows).last_number() == name


def test_table_without_numbers_is_refused() -> None:
    with pytest.raises(DataError, match=r"^x: no column holds numbers; there are 'a', 'b'$"):
        parse_table("x", "a,b\nx,\n1,2\n").last_number()


@given(
    st.lists(
        st.tuples(st.text("ab,;\"\n'\t #x1", min_size=1), st.floats(allow_nan=False, allow_infinity=False)), min_size=1
    ),
    st.sampled_from([",", ";", "\t"]),
)
def test_tables_of_the_csv_module_round_trip(tmp_path: Path, rows: list[tuple[str, float]], delimiter: str) -> None:
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter).writerows([("text", "x"), *((text, repr(x)) for text, x in rows)])
    table = read_table(write(tmp_path, file.getvalue()))
    assert table.columns(["x"])[:, 0].tolist() == [x for _, x in rows]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n3\n", "t.csv:3: expected 2 columns as in the header, got 1"),
        ('a,b\n"1\n\n",2\n3,4,5\n', "t.csv:5: expected 2 columns as in the header, got 3"),
        ("a,b\n1,2\n\n3,4\n", "t.csv:3: empty line"),
        ("a,b\n\n \n3,4\n", "t.csv:2: empty line"),
        ("a,b\n", "t.csv: no row below the header"),
        ("a,b\n\n\n", "t.csv: no row below the header"),
        ("a,b, a \n1,2,3\n", "t.csv:1: 2 columns are called 'a'"),
        ("\na,b\n1,2\n", "t.csv:1: expected a header with the names of the columns, got an empty line"),
        ("1,2.5\n3,4\n", "t.csv:1: expected a header with the names of the columns, got numbers"),
        ('a,b\n1,2\n3,"4\n5,6\n', "t.csv:3: unexpected end of data; is there a quote that does not end?"),
        ('a,b\n1,"2"3\n', "t.csv:2: ',' expected after '\"'; is there a quote that does not end?"),
        ('"a,b\n1,2\n', "t.csv:1: unexpected end of data; is there a quote that does not end?"),
    ],
)
def test_malformed_tables_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read_table(write(tmp_path, text))
    assert str(caught.value) == f"{tmp_path}/{message}"


@pytest.mark.parametrize(
    ("cell", "got"),
    [
        *((cell, "the cell is empty") for cell in ("", " ")),
        *((cell, f"got '{cell}'") for cell in ("x", "nan", "-inf", "1e999", "1_000", "1 2")),
        ("'1,5'", "got '1,5'"),
    ],
)
def test_cells_that_are_not_numbers_are_refused(tmp_path: Path, cell: str, got: str) -> None:
    """Only the columns that are asked for are parsed."""
    table = read_table(write(tmp_path, '"a\nb",c\n"1\n",x\n2,3\n{},4\n'.format(cell.replace("'", '"'))))
    with pytest.raises(DataError) as caught:
        table.columns(["a\nb"])
    assert str(caught.value) == f"{tmp_path}/t.csv:6: column 'a\\nb': expected a finite number, {got}"
    with pytest.raises(DataError, match=r"t\.csv:3: column 'c': expected a finite number, got 'x'"):
        table.columns(["c"])
    with pytest.raises(DataError, match=r"t\.csv: no column 'd'; there are 'a\\nb', 'c'$"):
        table.columns(["c", "d"])


@given(arrays(np.float64, st.tuples(st.integers(1, 9), st.integers(0, 3)), elements=st.floats(-1e200, 1e200)))
def test_scaling_round_trip(series: np.ndarray) -> None:
    scaler = Scaler.fit(series)
    assert (scaler.std > 0).all()
    z = scaler.apply(series)
    # Columns whose spread is lost in rounding beside their size keep few digits.
    for column in range(series.shape[1]):
        x, size = series[:, column], np.abs(series[:, column]).max()
        if np.ptp(x) == 0:
            assert (z[:, column] == 0).all()
            assert scaler.std[column] == 1
        elif np.ptp(x) > 1e-6 * size and size > 1e-290:
            np.testing.assert_allclose([z[:, column].mean(), z[:, column].std()], [0, 1], atol=1e-8)
        np.testing.assert_allclose(scaler.undo(z)[:, column], x, rtol=1e-12, atol=1e-12 * size)
    np.testing.assert_allclose(scaler.undo(z), series, rtol=1e-9, atol=1e-12 * np.abs(series).max(initial=0))
    again = Scaler.from_config(json.loads(json.dumps(scaler.to_config())))
    assert (again.mean == scaler.mean).all()
    assert (again.std == scaler.std).all()


def test_scaling_by_hand() -> None:
    scaler = Scaler.fit(np.array([[1.0, 0.1], [3, 0.1], [5, 0.1]], np.float32))
    assert scaler.mean.tolist() == [3, np.float64(np.float32(0.1))]
    assert scaler.std.tolist() == pytest.approx([math.sqrt(8 / 3), 1], rel=1e-15)
    assert scaler.apply(np.array([[3 + math.sqrt(8 / 3), 1]]))[0].tolist() == pytest.approx([1, 0.9])
    assert scaler.undo(np.array([[0.0, 1], [-1, 2]]))[1].tolist() == pytest.approx([3 - math.sqrt(8 / 3), 2.1])
    assert Scaler.fit(np.full((7, 1), 0.1)).apply(np.full((7, 1), 0.1)).tolist() == [[0.0]] * 7


def test_seasonal_naive_forecasts_by_hand() -> None:
    values = np.array([1.0, 2, 3, 4, 5, 6])
    assert base_forecasts(values, 3, 3, "season", 2).tolist() == [[2, 3, 2]]
    assert base_forecasts(values, 3, 2, "last", 1).tolist() == [[3, 3], [4, 4]]
    assert base_forecasts(values, 3, 1, "season", 3).tolist() == [[1], [2], [3]]


def test_seasonal_naive_forecasts_of_airline_passengers() -> None:
    """Last third, one step ahead; the errors of both forecasts, computed with two lines of NumPy."""
    for period, expected in ((1, 48.04121494), (12, 41.85366372)):
        forecasts = base_forecasts(AIRLINE, 96, 1, "season", period)[:, 0]
        rmse = math.sqrt(np.mean((forecasts - AIRLINE[96:]) ** 2))
        assert rmse == pytest.approx(
            math.sqrt(np.mean((AIRLINE[96 - period : -period] - AIRLINE[96:]) ** 2)), rel=1e-14
        )
        assert rmse == pytest.approx(expected, rel=1e-8)


def test_seasonal_period_of_airline_passengers() -> None:
    assert seasonal_period(AIRLINE[:96]) == 12
    assert seasonal_period(AIRLINE) == 12
    assert seasonal_period(AIRLINE.astype(np.int64)[:60]) == 12
    assert seasonal_period(np.log(AIRLINE)) == 12
    assert seasonal_period(np.repeat(AIRLINE, 2)[::2]) == 12
    assert seasonal_period(AIRLINE * 1e300) == seasonal_period(AIRLINE * 1e-300) == 12


@pytest.mark.parametrize("period", [2, 3, 5, 7, 12, 24, 30])
@pytest.mark.parametrize("count", [96, 97, 1000])
def test_seasonal_period_of_a_sine(period: int, count: int) -> None:
    at = np.arange(count)
    sine = np.sin(2 * np.pi * at / period + 0.3)
    assert seasonal_period(sine) == period
    assert seasonal_period(1e4 + 0.3 * at + 10 * sine) == period


def many(make, count: int = 200) -> list[int]:  # type: ignore[no-untyped-def]
    return [seasonal_period(make(np.random.default_rng(seed))) for seed in range(count)]


@pytest.mark.parametrize("rows", [40, 200, 1000])
def test_seasonal_period_of_noise_is_mostly_one(rows: int) -> None:
    """White noise, a random walk and an autoregression have no season."""
    assert many(lambda rng: rng.normal(size=rows)).count(1) >= 180
    assert many(lambda rng: rng.normal(size=rows).cumsum()).count(1) >= 180
    decay = 0.7 ** np.arange(50)
    assert many(lambda rng: np.convolve(rng.normal(size=rows + 49), decay, "valid")).count(1) >= 180


def test_season_beneath_noise_and_random_walk() -> None:
    """Found without its multiples, also where the level is a random walk, or the changes from row to row are noise."""
    at = np.arange(1000)
    week = np.array([0, 1, 2, 3, 2, -3, -3])[at % 7]
    assert many(lambda rng: week + 2 * rng.normal(size=1000)).count(7) >= 180
    assert many(lambda rng: week + rng.normal(size=1000).cumsum()).count(7) >= 180
    slow = 0.01 * at + 2 * np.sin(2 * np.pi * at / 100)
    assert sum(95 <= found <= 105 for found in many(lambda rng: slow + rng.normal(size=1000))) >= 180


def test_seasonal_period_of_series_without_one() -> None:
    for rows in range(8):
        assert seasonal_period(np.arange(rows) % 2.0 if rows else np.empty(0)) in (1, 2)
    assert seasonal_period(np.empty(0)) == seasonal_period(np.zeros(50)) == seasonal_period(np.full(50, 0.1)) == 1
    assert seasonal_period(np.arange(100.0)) == seasonal_period(1e6 - 0.1 * np.arange(99)) == 1


def _config(mean: object, std: object) -> dict[str, Any]:
    return {"mean": mean, "std": std}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Scaler.fit(np.zeros((0, 2))), DataError, "at least one row"),
        (lambda: Scaler.fit(np.zeros(3)), ShapeError, r"expected a series \[R, C\], got \[3\]"),
        *(
            (lambda bad=bad: Scaler.fit(np.array([[1.0], [bad], [-bad]])), DataError, "NaN, infinity, or numbers too l")
            for bad in (math.nan, math.inf, 1.7e308)
        ),
        (lambda: SCALER.apply(np.zeros((4, 1))), ShapeError, r"Scaler\.apply: expected \[\.\.\., 3\], got \[4, 1\]"),
        (lambda: SCALER.undo(np.zeros(2)), ShapeError, r"Scaler\.undo: expected \[\.\.\., 3\], got \[2\]"),
        *(
            (lambda config=config: Scaler.from_config(config), DataError, "expected the numbers 'mean' and 'std'")
            for config in ({}, {"mean": [1]}, _config(["x"], [1]), _config(None, {}), _config([[1], 2], [1]))
        ),
        *(
            (lambda config=config: Scaler.from_config(_config(*config)), DataError, "expected finite means")
            for config in (([0], [0]), ([0], [-1]), ([0, 1], [1]), ([math.nan], [1]), ([0], [math.inf]), (0, 1))
        ),
        (lambda: seasonal_period(np.zeros((4, 1))), ShapeError, r"expected values \[R\], got \[4, 1\]"),
    ],
)
def test_arguments_are_checked(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
