"""How large messages are, about: told by names and files, without a look into any."""

from __future__ import annotations

from pathlib import Path

from test_store_mailbox import make_store

MAIL = b"Subject: x\n\nbody\n"


async def test_sizes_that_need_no_reading(tmp_path: Path) -> None:
    cur = tmp_path / "Maildir" / "cur"
    for part in ("cur", "new", "tmp"):
        (tmp_path / "Maildir" / part).mkdir(parents=True)
    names = [
        "1.M1P1.host,S=17,W=20:2,S",
        "2.M2P1.host,S=17:2,",
        "3.M3P1.host:2,S",
        "4.M4P1.host:2,",
    ]
    for name in names:
        (cur / name).write_bytes(MAIL)
    folder = await make_store(tmp_path).open_folder("INBOX")
    # Nothing can be read any more, and one is gone.
    for name in names[:3]:
        (cur / name).unlink()
        (cur / name).symlink_to("nowhere")
    (cur / names[2]).unlink()
    (cur / names[2]).mkdir()
    (cur / names[3]).unlink()
    sizes = await folder.likely_sizes([1, 2, 3, 4, 5])
    assert sizes.pop(3) == (cur / names[2]).stat().st_size
    assert sizes == {1: 20, 2: 17}
