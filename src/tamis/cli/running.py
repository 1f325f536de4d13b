"""The commands of a service: serve it, who may ask it, what it decided, what people make of that."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tamis.cli.options import Set

audit_app = typer.Typer(
    no_args_is_help=True, help="The decision log.\n\nExample: `tamis audit verify --store runs/demo/store.sqlite`"
)
keys_app = typer.Typer(
    no_args_is_help=True, help="Keys of the service.\n\nExample: `tamis keys add shop --store tamis.sqlite`"
)
feedback_app = typer.Typer(
    no_args_is_help=True,
    help="What people corrected, as rows for training and for other tools."
    "\n\nExample: `tamis feedback export rows.jsonl --store runs/demo/store.sqlite`",
)
users_app = typer.Typer(
    no_args_is_help=True, help="People who review in the console.\n\nExample: `tamis users add ann --role lead`"
)
err = Console(stderr=True)
LONGEST = 36_500
"""Days."""

Url = Annotated[str, typer.Option("--store", metavar="URL", help="Database URL, or a SQLite file.")]


@audit_app.command("verify")
def audit_verify(store: Url) -> None:
    """Walk the chain of decisions and name the first row that was tampered with.

    Example: `tamis audit verify --store postgresql://tamis@localhost/tamis`
    """
    from tamis.decisions import verify
    from tamis.show import show_verified
    from tamis.store import Store

    with Store.open(store, create=False) as opened:
        show_verified(verify(opened))


@audit_app.command("forget")
def audit_forget(name: Annotated[str, typer.Argument(metavar="ID")], store: Url) -> None:
    """Remove what is kept of a text, by a decision's id or the text's content hash; the chain stays whole.

    Example: `tamis audit forget 4f2a9c0e1b7d3856 --store runs/demo/store.sqlite`
    """
    from tamis.feedback import forget_text
    from tamis.store import Store

    with Store.open(store, create=False) as opened:
        Console().print(f"{forget_text(opened, name)} decisions have forgotten their text")


PolicyName = Annotated[str, typer.Option("--policy", metavar="NAME", help="A YAML file, or a shipped policy.")]


def monitor(
    store: Url,
    policy: PolicyName = "default",
    days: Annotated[
        int, typer.Option("--days", min=1, max=LONGEST, help="Length of the traffic that is looked at.")
    ] = 7,
    until: Annotated[datetime | None, typer.Option("--until", help="Its end, in UTC; now without it.")] = None,
    pin: Annotated[bool, typer.Option("--pin", help="Make it the reference of later looks.")] = False,
    language: Annotated[Literal["en", "zh"], typer.Option("--language", help="Of what is printed.")] = "en",
) -> None:
    """Hold traffic against a pinned reference; exits with 1 while an alarm stands.

    Example: `tamis monitor --store runs/demo/store.sqlite --days 7`
    """
    from tamis.policy import load_policy
    from tamis.ship import monitor as watching
    from tamis.show import show_pinned, show_watched
    from tamis.store import Store

    end = until.replace(tzinfo=UTC) if until else datetime.now(UTC)
    with Store.open(store, create=False) as opened:
        if pin:
            show_pinned(watching.pin(opened, load_policy(policy), end, days))
            return
        found = watching.watch(opened, load_policy(policy), end, days)
    show_watched(found, language)
    if found.alarms:
        raise typer.Exit(1)


Form = Annotated[
    Literal["jsonl", "label-studio", "argilla"], typer.Option("--format", help="JSON lines, or the tool it is for.")
]


@feedback_app.command("export")
def feedback_export(
    file: Annotated[Path, typer.Argument(metavar="FILE")],
    store: Url,
    form: Form = "jsonl",
    policy: PolicyName = "default",
    texts: Annotated[
        Path | None, typer.Option("--texts", help="JSON lines with `text`, for texts the decision log does not keep.")
    ] = None,
) -> None:
    """Write reviewed texts with who said what of them and whose word decides.

    Example: `tamis feedback export rows.jsonl --store runs/demo/store.sqlite`
    """
    from tamis.feedback import gather, read_texts, write_feedback
    from tamis.policy import load_policy
    from tamis.store import Store

    with Store.open(store, create=False) as opened:
        found = gather(opened, load_policy(policy), read_texts(texts) if texts else ())
    write_feedback(file, found.feedback, form)
    Console().print(f"{len(found.feedback)} texts written, {found.without_text} left out whose text is not kept")


@feedback_app.command("import")
def feedback_import(file: Annotated[Path, typer.Argument(metavar="FILE")], store: Url, form: Form = "jsonl") -> None:
    """Take verdicts that people gave elsewhere; what is there already is not taken twice.

    Example: `tamis feedback import tasks.json --format label-studio --store runs/demo/store.sqlite`
    """
    from tamis.feedback import read_feedback, take
    from tamis.store import Store

    with Store.open(store, create=False) as opened:
        Console().print(f"{take(opened, read_feedback(file, form))} verdicts taken")


@feedback_app.command("choose")
def feedback_choose(
    store: Url,
    count: Annotated[int, typer.Option(min=1, help="How many texts.")] = 300,
    by: Annotated[
        list[str] | None,
        typer.Option(
            help="`uncertain`: the model was; `disputed`: a teacher answers otherwise; `new`: unlike what was judged;"
            " `now`: unlike the pinned reference. Repeatable; `uncertain` without it."
        ),
    ] = None,
    rare: Annotated[
        float, typer.Option(min=0, max=1, help="Share for the categories of which the fewest were judged.")
    ] = 0.3,
    days: Annotated[int, typer.Option(min=1, max=LONGEST, help="Length of the traffic they are chosen from.")] = 7,
    until: Annotated[datetime | None, typer.Option("--until", help="Its end, in UTC; now without it.")] = None,
    among: Annotated[int, typer.Option(min=1, help="At most so many candidates, drawn at random.")] = 5000,
    bundle: Annotated[
        Path | None, typer.Option("--bundle", help="Shows the states that `new` and `now` are told by; needs torch.")
    ] = None,
    policy: PolicyName = "default",
) -> None:
    """Queue the texts of recent traffic that people should see next.

    Example: `tamis feedback choose --store tamis.sqlite --count 300`

    After an alarm of drift: `tamis feedback choose --store tamis.sqlite --by now --rare 0 --bundle runs/live`
    """
    from tamis import reviews
    from tamis.policy import load_policy
    from tamis.ship.bundle import load_bundle
    from tamis.ship.next_reviews import Wish, pick
    from tamis.show import show_picked
    from tamis.store import Store

    end = until.replace(tzinfo=UTC) if until else datetime.now(UTC)
    wish = Wish(end - timedelta(days=days), end, by or ("uncertain",), count, rare, among)
    model = load_bundle(bundle) if bundle else None
    with Store.open(store, create=False) as opened:
        # What waits for review or audit anyway is not chosen.
        reviews.fill(opened)
        found = pick(opened, model.policy if model else load_policy(policy), wish, model)
        show_picked(found, reviews.queue(opened, found.ids))


def serve(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of the bundle.")],
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at; 0 takes a free one.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the port.")] = 1,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Settings, see recipes/serve.yaml.")
    ] = None,
    store: Annotated[
        str | None,
        typer.Option("--store", metavar="URL", help="Database URL, or a SQLite file, instead of the settings'."),
    ] = None,
    set_: Set = None,
) -> None:
    """Answer moderation requests over HTTP with a bundle.

    Example: `tamis serve runs/demo/bundle --port 8000 --store tamis.sqlite`
    """
    from tamis.recipe import load_serving

    settings = load_serving(config, [*(set_ or []), *([f"store={store}"] if store else [])])
    from tamis.ship.service.serve import serve
    from tamis.tiers import teachers

    serve(bundle, settings, teachers, host, port, workers)


KeyStore = Annotated[str, typer.Option("--store", metavar="URL", help="Database URL, or a SQLite file.")]


@keys_app.command("add")
def keys_add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="For people: whose it is.")],
    store: KeyStore = "tamis.sqlite",
    scope: Annotated[
        list[str] | None, typer.Option(help="`moderate` (default), `moderate:TENANT` or `admin`; repeatable.")
    ] = None,
    per_minute: Annotated[int | None, typer.Option(help="Requests a minute; no limit without it.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Requests at the same time; no limit without it.")] = None,
) -> None:
    """Make a key and print it; it is not kept and cannot be shown again.

    Example: `tamis keys add shop --per-minute 600 --concurrency 8 --store tamis.sqlite`
    """
    from tamis.ship.service.keys import add_key
    from tamis.store import Store

    with Store.open(store) as opened:
        # Plain, so that it can be piped.
        typer.echo(add_key(opened, name, scope or ["moderate"], per_minute, concurrency))


@keys_app.command("list")
def keys_list(store: KeyStore = "tamis.sqlite") -> None:
    """List the keys, without what would let anybody in.

    Example: `tamis keys list --store tamis.sqlite`
    """
    from tamis.ship.service.keys import list_keys
    from tamis.store import Store

    table = Table("id", "name", "scopes", "a minute", "at a time", "created", "revoked")
    with Store.open(store, create=False) as opened:
        for key in list_keys(opened):
            limits = [str(limit or "") for limit in (key.per_minute, key.concurrency)]
            times = [(time or "")[:19] for time in (key.created, key.revoked)]
            table.add_row(key.id, escape(key.name), " ".join(key.scopes), *limits, *times)
    Console().print(table)


@keys_app.command("revoke")
def keys_revoke(
    name: Annotated[str, typer.Argument(metavar="ID|NAME", help="A key's id, or a name, of which all are meant.")],
    store: KeyStore = "tamis.sqlite",
) -> None:
    """Revoke a key; a running service follows within a second.

    Example: `tamis keys revoke shop --store tamis.sqlite`
    """
    from tamis.ship.service.keys import revoke_key
    from tamis.store import Store

    with Store.open(store, create=False) as opened:
        Console().print(f"{revoke_key(opened, name)} keys are revoked")


@users_app.command("add")
def users_add(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="What they sign in with; it stands beside what they say.")
    ],
    store: KeyStore = "tamis.sqlite",
    role: Annotated[str, typer.Option(help="`reviewer`, `lead` or `admin`.")] = "reviewer",
) -> None:
    """Let a person into the console and print their password; it is not kept and they can change it there.

    Example: `tamis users add ann --role reviewer --store tamis.sqlite`
    """
    from tamis.ship.console.users import add_user
    from tamis.store import Store

    with Store.open(store) as opened:
        typer.echo(add_user(opened, name, role))


@users_app.command("list")
def users_list(store: KeyStore = "tamis.sqlite") -> None:
    """List the people who may sign in.

    Example: `tamis users list --store tamis.sqlite`
    """
    from tamis.ship.console.users import list_users
    from tamis.store import Store

    table = Table("name", "role", "since")
    with Store.open(store, create=False) as opened:
        for user in list_users(opened):
            table.add_row(escape(user.name), user.role, user.created)
    Console().print(table)


@users_app.command("remove")
def users_remove(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    store: KeyStore = "tamis.sqlite",
) -> None:
    """Let a person in no more, and sign them out at once; what they judged stays.

    Example: `tamis users remove ann --store tamis.sqlite`
    """
    from tamis.ship.console.users import remove_user
    from tamis.store import Store

    with Store.open(store, create=False) as opened:
        remove_user(opened, name)
    Console().print(f"{escape(name)} is signed out and cannot sign in again")
