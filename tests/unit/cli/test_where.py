"""What -o and --until say."""

from datetime import UTC, datetime

import pytest

from seglog.cli.exits import Refused
from seglog.cli.where import Where, parse_where

NOON = 1_372_939_200_000_000  # 2013-07-04T12:00:00Z


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("beginning", Where("beginning")),
        ("earliest", Where("beginning")),
        ("end", Where("end")),
        ("latest", Where("end")),
        ("0", Where("offset", 0)),
        ("17", Where("offset", 17)),
        ("-3", Where("last", 3)),
        ("@1372939200", Where("time", NOON)),
        ("@1372939200s", Where("time", NOON)),
        ("@1372939200000", Where("time", NOON)),
        ("@1372939200000ms", Where("time", NOON)),
        ("@1372939200000000", Where("time", NOON)),
        ("@1372939200000000us", Where("time", NOON)),
        ("@2013-07-04T12:00:00Z", Where("time", NOON)),
        ("@2013-07-04T14:00+02:00", Where("time", NOON)),
        ("@0", Where("time", 0)),
    ],
)
def test_each_form_says_its_place(text, meaning):
    assert parse_where(text) == meaning


def test_a_time_without_a_zone_is_local_as_people_mean_it():
    local = datetime(2013, 7, 4, 12).astimezone(UTC)
    assert parse_where("@2013-07-04T12:00").number == local.timestamp() * 1_000_000


@pytest.mark.parametrize("text", ["", "foo", "@", "@yesterday", "--3", "1.5", "@2013-13-01", "-"])
def test_what_says_no_place_is_refused(text):
    with pytest.raises(Refused):
        parse_where(text)
