"""Virtual and local aliases, as Postfix expands them, and each person once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from resel_mta.config import Settings
from resel_mta.mail import Notify, PermFail, Recipient, TempFail
from resel_mta.routing import Expander, RoutingTable
from resel_mta.users import open_users

Build = Callable[..., Expander]


@pytest.fixture
def make(tmp_path: Path) -> Build:
    def build(aliases: str = "", virtual: str = "", **values: str) -> Expander:
        (tmp_path / "aliases").write_text(aliases.replace("DIR", str(tmp_path)))
        (tmp_path / "virtual").write_text(virtual)
        (tmp_path / "users").write_text("bob:{PLAIN}x\n")
        settings = Settings.build(
            **{
                "myhostname": "toad.resel.fr",
                "mydomain": "resel.fr",
                "myorigin": "resel.fr",
                "mydestination": "resel.fr, localhost",
                "alias_maps": f"hash:{tmp_path}/aliases",
                "virtual_alias_maps": f"texthash:{tmp_path}/virtual" if virtual else "",
                "passdb": f"passwd-file:{tmp_path}/users",
                **values,
            }
        )
        return Expander(settings, RoutingTable(settings, open_users(settings)))

    return build


async def addresses(expander: Expander, *given: str, sender: str = "s@x.org") -> list[str]:
    found, trouble, _ = await expander.expand_all([Recipient(address) for address in given], sender)
    assert not trouble
    return [recipient.address for recipient in found]


async def test_nothing_to_do_keeps_the_object(make: Build) -> None:
    recipient = Recipient("a@other.example")
    found, *_ = await make("root: bob").expand_all([recipient], "s@x.org")
    assert found == [recipient]
    assert recipient.via == ()


async def test_root_goes_elsewhere(make: Build) -> None:
    expander = make("root: root@adm.example\n")
    found, *_ = await expander.expand_all([Recipient("root", notify=Notify.FAILURE)], "s@x.org")
    assert len(found) == 1
    made = found[0]
    assert (made.address, made.orig_to, made.orcpt) == ("root@adm.example", "root", "rfc822;root")
    assert (made.notify, made.via, made.reverse_path) == (Notify.FAILURE, ("root",), None)


async def test_targets(make: Build, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("# members\nann@a.org\nCarl <carl@c.org>, bob\n")
    expander = make('team: :include:DIR/list, "d d"@d.org, other\nother: eve@e.org\n')
    assert await addresses(expander, "Team@resel.fr") == [
        "ann@a.org",
        "carl@c.org",
        "bob@resel.fr",
        '"d d"@d.org',
        "eve@e.org",
    ]


async def test_owner(make: Build) -> None:
    aliases = "list: a@a.org\nowner-list: boss@b.org\nowner-owner-list: x\n"
    found, *_ = await make(aliases).expand_all(
        [Recipient("list@localhost", notify=Notify.SUCCESS, orcpt="rfc822;x")], "s@x.org"
    )
    assert found[0].reverse_path == "owner-list@resel.fr"
    # The member, and an answer to the sender.
    assert (len(found), found[1].answer) == (2, "delivered")
    assert (found[0].notify, found[0].orcpt) == (Notify.UNSET, "")
    found, *_ = await make(aliases, expand_owner_alias="yes").expand_all(
        [Recipient("list")], "s@x.org"
    )
    assert found[0].reverse_path == "boss@b.org"
    found, *_ = await make(aliases).expand_all([Recipient("list")], "")
    assert found[0].reverse_path is None
    found, *_ = await make(aliases).expand_all([Recipient("owner-list")], "s@x.org")
    assert (found[0].address, found[0].reverse_path) == ("boss@b.org", None)


async def test_alias_of_itself_is_the_mailbox(make: Build) -> None:
    expander = make("bob: bob, arch@a.org\n")
    found, *_ = await expander.expand_all([Recipient("bob@resel.fr")], "s@x.org")
    assert [r.address for r in found] == ["bob@resel.fr", "arch@a.org"]
    assert found[0].orig_to == ""
    again, *_ = await expander.expand_all(found, "s@x.org")
    assert again == found
    assert (await expander._table.route("bob@resel.fr", "", found[0].via)).transport == "local"


async def test_backslash_is_the_mailbox(make: Build) -> None:
    expander = make("root: \\bob\nbob: elsewhere@e.org\n")
    found, *_ = await expander.expand_all([Recipient("root")], "s@x.org")
    assert [r.address for r in found] == ["bob@resel.fr"]
    assert (await expander._table.route("bob@resel.fr", "", found[0].via)).transport == "local"
    assert await addresses(expander, "bob") == ["elsewhere@e.org"]


async def test_loops(make: Build) -> None:
    expander = make("a: b\nb: a\nc: d, real@r.org\nd: c\n")
    with pytest.raises(PermFail) as caught:
        await expander.expand(Recipient("a@resel.fr"), "s@x.org")
    assert caught.value.reply.enhanced == "5.4.6"
    assert await addresses(expander, "c") == ["real@r.org"]
    kept, trouble, _ = await expander.expand_all([Recipient("a")], "s@x.org")
    assert [r.address for r in kept] == ["a@resel.fr"]
    assert "alias database loop" in trouble[0][1].text
    assert (await expander._table.route("a@resel.fr")).transport == "expand"


async def test_deep_chains_end(make: Build) -> None:
    chain = "".join(f"n{i}: n{i + 1}\n" for i in range(150))
    with pytest.raises(PermFail):
        await make(chain).expand(Recipient("n0@resel.fr"), "s@x.org")
    assert await addresses(make(chain), "n60") == ["n150@resel.fr"]


async def test_an_included_file_that_is_missing_loses_nothing(make: Build) -> None:
    expander = make("prog: :include:/does/not/exist, ann@a.org\n")
    with pytest.raises(TempFail) as caught:
        await expander.expand(Recipient("prog@resel.fr"), "s@x.org")
    assert caught.value.reply.enhanced == "4.3.5"
    kept, trouble, _ = await expander.expand_all(
        [Recipient("prog"), Recipient("x@x.org")], "s@x.org"
    )
    assert [r.address for r in kept] == ["prog@resel.fr", "x@x.org"]
    assert len(trouble) == 1
    assert kept[0].orig_to == "prog"


async def test_world_writable_include_is_not_followed(make: Build, tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_text("a@a.org\n")
    path.chmod(0o666)
    with pytest.raises(TempFail):
        await make("l: :include:DIR/list").expand(Recipient("l@resel.fr"), "s@x.org")


async def test_virtual(make: Build) -> None:
    expander = make(
        "bob: bob@home.org\n",
        "info@va.example a@a.org, bob\n@old.example @new.example\nself@va.example self@va.example, c@c.org\n"
        "sales sales@s.org\n",
        recipient_delimiter="+",
    )
    assert await addresses(expander, "info@VA.example") == ["a@a.org", "bob@home.org"]
    assert await addresses(expander, "any+y@old.example") == ["any+y@new.example"]
    assert await addresses(expander, "self@va.example") == ["self@va.example", "c@c.org"]
    assert await addresses(expander, "sales@resel.fr", "sales@x.org") == [
        "sales@x.org",
        "sales@s.org",
    ]


async def test_virtual_extension(make: Build) -> None:
    virtual = "info@va.example a@a.org\n"
    kept = make(virtual=virtual, recipient_delimiter="+")
    assert await addresses(kept, "info+x@va.example") == ["a+x@a.org"]
    dropped = make(virtual=virtual, recipient_delimiter="+", propagate_unmatched_extensions="")
    assert await addresses(dropped, "info+x@va.example") == ["a@a.org"]


async def test_local_alias_extension(make: Build) -> None:
    expander = make("bob: bob@home.org\nme: me, x@x.org\n", recipient_delimiter="+")
    assert await addresses(expander, "bob+x") == ["bob@home.org"]
    assert await addresses(expander, "me+x") == ["me@resel.fr", "x@x.org"]
    kept = make(
        "bob: bob@home.org\n", recipient_delimiter="+", propagate_unmatched_extensions="alias"
    )
    assert await addresses(kept, "bob+x") == ["bob+x@home.org"]


async def test_virtual_loops_and_limits(make: Build) -> None:
    expander = make(virtual="a@v.example b@v.example\nb@v.example a@v.example\n")
    with pytest.raises(PermFail):
        await expander.expand(Recipient("a@v.example"), "s@x.org")
    many = ", ".join(f"u{i}@x.org" for i in range(20))
    small = make(virtual=f"a@v.example {many}\n", virtual_alias_expansion_limit="10")
    with pytest.raises(TempFail) as caught:
        await small.expand(Recipient("a@v.example"), "s@x.org")
    assert "unreasonable virtual_alias_maps map expansion size" in caught.value.reply.text


async def test_local_targets_of_aliases_are_not_virtual(make: Build) -> None:
    """bob's virtual alias names a list that names bob: the list reaches his mailbox."""
    expander = make("list: bob, c@c.org\n", "bob@resel.fr list@resel.fr\n")
    found, *_ = await expander.expand_all([Recipient("bob@resel.fr")], "s@x.org")
    assert [r.address for r in found] == ["bob@resel.fr", "c@c.org"]
    assert (await expander._table.route("bob@resel.fr", "", found[0].via)).transport == "local"
    again, *_ = await expander.expand_all(found, "s@x.org")
    assert again == found


async def test_each_person_once(make: Build) -> None:
    expander = make("one: bob, Bob@localhost, two\ntwo: bob, x@X.org\nowner-one: o@o.org\n")
    found, *_ = await expander.expand_all(
        [Recipient("one"), Recipient("x@x.org"), Recipient("two"), Recipient("BOB@localhost")],
        "s@x.org",
    )
    assert [(r.address, r.reverse_path) for r in found] == [
        ("x@x.org", None),
        ("BOB@localhost", None),
    ]
    twice = [Recipient("q@q.org"), Recipient("q@q.org")]
    assert len((await expander.expand_all(twice, "s@x.org"))[0]) == 1
    twice = [Recipient("q@q.org"), Recipient("Q@Q.ORG")]
    (kept,) = (await expander.expand_all(twice, "s@x.org"))[0]
    assert kept is twice[0]


BOTH = Notify.SUCCESS | Notify.FAILURE


async def asked(
    expander: Expander, *given: str, notify: Notify = BOTH, sender: str = "s@x.org"
) -> list[tuple[str, Notify, str]]:
    """(address, NOTIFY, answer) of what recipients become."""
    recipients = [
        Recipient(f"{name}@resel.fr", notify=notify, orcpt=f"rfc822;{name}@resel.fr")
        for name in given
    ]
    found, trouble, _ = await expander.expand_all(recipients, sender)
    assert not trouble
    return [(each.address.removesuffix("@resel.fr"), each.notify, each.answer) for each in found]


async def test_one_address_has_the_request_handed_on(make: Build) -> None:
    expander = make("a: b\nb: \\bob\nbob: bob\n", "v@resel.fr a@resel.fr\n")
    for name in ("a", "b", "bob", "v"):
        assert await asked(expander, name) == [("bob", BOTH, "")]


async def test_several_have_their_alias_answer(make: Build) -> None:
    """RFC 3461 §5.2.7.3 (c); once, whatever is nested in it."""
    expander = make("a: team\nteam: x, y\nx: x, z\n", "v@resel.fr team@resel.fr, q@q.org\n")
    rest = Notify.FAILURE
    members = [("x", rest, ""), ("z", rest, ""), ("y", rest, "")]
    for name in ("a", "team"):
        assert await asked(expander, name) == [*members, (name, Notify.SUCCESS, "expanded")]
    assert await asked(expander, "v") == [
        *members,
        ("q@q.org", rest, ""),
        ("v", Notify.SUCCESS, "expanded"),
    ]
    found = await asked(expander, "team", notify=Notify.SUCCESS)
    assert {notify for _, notify, answer in found if not answer} == {Notify.NEVER}
    # Nobody asked, or nobody can be told.
    assert await asked(expander, "team", notify=rest) == members
    assert await asked(expander, "team", notify=Notify.UNSET) == [
        (name, Notify.UNSET, "") for name, _, _ in members
    ]
    assert await asked(expander, "team", sender="") == members
    # The same address twice is one.
    assert await asked(make("t: bob, bob\n"), "t") == [("bob", BOTH, "")]


async def test_a_list_within_a_list(make: Build) -> None:
    expander = make(
        "one: l\nboth: l, bob\nl: x, m\nowner-l: boss\nm: y\nowner-m: boss\nlone: z\nowner-lone: q\n"
    )
    members = [("x", Notify.UNSET, ""), ("y", Notify.UNSET, "")]
    for name in ("one", "l"):
        assert await asked(expander, name) == [*members, (name, Notify.SUCCESS, "delivered")]
    assert await asked(expander, "both") == [
        *members,
        ("bob", Notify.FAILURE, ""),
        ("both", Notify.SUCCESS, "expanded"),
    ]
    assert await asked(expander, "lone") == [
        ("z", Notify.UNSET, ""),
        ("lone", Notify.SUCCESS, "delivered"),
    ]


async def test_an_answer_is_not_lost_with_a_second_copy(make: Build) -> None:
    expander = make("a: bob\nb: bob\nt: bob, z\n")
    assert await asked(expander, "a", "b", "a", "t") == [
        ("bob", BOTH, ""),
        ("z", Notify.FAILURE, ""),
        ("t", Notify.SUCCESS, "expanded"),
        ("b", Notify.SUCCESS, "expanded"),
    ]
    # Named directly: that is not merged with what is there for the answer.
    assert await asked(make("bob: bob, z\n"), "bob", "bob") == [
        ("bob", Notify.FAILURE, ""),
        ("z", Notify.FAILURE, ""),
        ("bob", Notify.SUCCESS, "expanded"),
    ]


async def test_an_answer_is_not_expanded_again(make: Build) -> None:
    expander = make("t: bob, z\n")
    recipient = Recipient("t@resel.fr", notify=Notify.SUCCESS)
    found, *_ = await expander.expand_all([recipient], "s@x.org")
    again, *_ = await expander.expand_all(found, "s@x.org")
    assert again == found


async def test_ten_thousand(make: Build) -> None:
    expander = make("all: " + ", ".join(f"u{i}@x.org" for i in range(10_000)) + "\n")
    assert len(await addresses(expander, "all")) == 10_000
    assert len(await addresses(expander, *(f"u{i}@x.org" for i in range(10_000)), "all")) == 10_000


async def test_many_recipients_of_domains_with_and_without_aliases(make: Build) -> None:
    expander = make("staff: ann, bob@far.example\n")
    given = ["a@far.example", "B@far.example", "staff@resel.fr", "b@FAR.example", "c@far.example"]
    found = await addresses(expander, *given, "a@far.example.")
    assert sorted(found) == [
        "B@far.example",
        "a@far.example",
        "ann@resel.fr",
        "bob@far.example",
        "c@far.example",
    ]
