"""pop3_uidl_format."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resel_lda.pop3.uidl import DEFAULT, parse_format, stored_name
from resel_mta.config.parameters import table


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("%08Xu%08Xv", "0000002a6553f100"),
        ("%u.%v", "42.1700000000"),
        ("%v-%u", "1700000000-42"),
        ("%Xu", "2a"),
        ("%5u", "00042"),
        ("%05u", "00042"),
        ("UID%u-%v", "UID42-1700000000"),
        ("%f", "1700000001.M1P1.host,S=3"),
        ("%g", "1700000001.M1P1.host,S=3"),
        ("100%%%u", "100%42"),
    ],
)
def test_pop3_uidl_formats(text: str, name: str) -> None:
    assert parse_format(text)(42, 1700000000, "1700000001.M1P1.host,S=3") == name


@pytest.mark.parametrize("text", ["", "%v", "fixed", "%u%m", "%u %v", "%", "%u%", "%08X", "é%u"])
def test_pop3_uidl_formats_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_format(text)


@given(
    st.integers(1, 0xFFFFFFFF),
    st.integers(1, 0xFFFFFFFF),
    st.text(max_size=300),
    st.sampled_from(["%08Xu%08Xv", "%f", "%f%u", "%u", "x%v.%u"]),
)
def test_pop3_uidl_is_what_the_rfc_allows(uid: int, validity: int, base: str, text: str) -> None:
    name = parse_format(text)(uid, validity, base)
    assert len(name) <= 70
    assert all("!" <= char <= "~" for char in name)


def test_pop3_uidl_stored_names() -> None:
    assert stored_name("W12 Pabc S11") == "abc"
    assert stored_name("W12") == stored_name("") == stored_name("P") == ""


def test_pop3_uidl_default_is_the_tables() -> None:
    assert table()["pop3_uidl_format"].default == DEFAULT
