"""Names of files, many at a time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from resel_lda.maildir.files import MaildirFiles, create_maildir
from resel_lda.maildir.names import NameMaker, ending_of, endings_of, in_arrival_order
from resel_lda.maildir.uidlist import Uidlist, read_uidlist, write_uidlist
from resel_mta.disk import Disk

USUAL = ["1700000001.M1P1.h,S=5:2,", "1700000002.M1P1.h:2,RS", "1700000003.M1P1.h:2,RS,x"]
ODD = ["plain", "two:2,:S", "line\nend:2,S", "1700000000.M9P1.h:2,S", "1700000000.M10P1.h:2,"]


@pytest.mark.parametrize(
    "names",
    [
        [],
        USUAL,
        ODD,
        # As many colons as names, but not one in each.
        ["none", "two:2,:S", *USUAL],
        ["a\nb:2,", *USUAL],
        [*USUAL, "1700000001.M1P1.h,S=5:2,S"],
    ],
    ids=["none", "usual", "odd", "uneven", "line end", "twice"],
)
def test_endings_of_many_are_those_of_each(names: list[str]) -> None:
    found = endings_of(names)
    assert found == {(base := name.partition(":")[0]): ending_of(name, base) for name in names}
    assert list(found) == list(dict.fromkeys(name.partition(":")[0] for name in names))


class NewIsReadOnly(Disk):
    def rename(self, source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
        raise PermissionError(source)


@pytest.mark.parametrize("disk", [Disk(), NewIsReadOnly()], ids=["moved", "stays in new"])
def test_a_listing_of_endings_is_that_of_names_in_arrival_order(tmp_path: Path, disk: Disk) -> None:
    create_maildir(Disk(), str(tmp_path))
    for name in [*USUAL, *ODD, ".hidden"]:
        (tmp_path / "cur" / name).touch()
    (tmp_path / "new" / "1600000000.M1P1.h").touch()
    files = MaildirFiles(disk, str(tmp_path), NameMaker())
    listed = files.scan_endings()
    names = files.scan()[0]
    assert listed == {base: ending_of(name, base) for base, name in names.items()}
    assert list(listed) == in_arrival_order(names)
    assert list(listed)[-1] == "1700000003.M1P1.h"


def test_a_list_with_and_without_extensions_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = str(tmp_path / "dovecot-uidlist")
    for extensions in ({}, {2: "W12 S11"}):
        written = Uidlist(uidvalidity=7, next_uid=9, guid="a" * 32, extensions=extensions)
        written.entries = {"one": 1, "two": 2, "l\udce9": 8}
        write_uidlist(Disk(), path, written)
        found = read_uidlist(path)
        assert (found.entries, found.extensions) == (written.entries, extensions)
        assert not found.damaged
