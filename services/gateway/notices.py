"""Sentences for users, in their language (GAT-11).

The sentences are Fluent files in `messages/`, one set for each language; the benefits of an upgrade
are a copy file that writers maintain. Both are checked when they are opened: a sentence that one
language lacks stops the start, not a user's request.
"""

from collections.abc import Mapping
from datetime import datetime
from importlib import resources
from typing import Any

import yaml
from babel.dates import format_datetime
from babel.lists import format_list
from babel.numbers import format_decimal, format_scientific
from fluent.runtime import FluentBundle, FluentResource
from fluent.syntax import ast
from gatehouse.gateway.v1 import gateway_pb2 as pb

# What a double holds to the last digit, about.
MOST_DIGITS = 1e15
LOCALES = ("en-US", "pt-BR", "es-ES")
KEYS = {
    pb.NOTICE_KIND_QUOTA_NEAR: "notice-quota-near",
    pb.NOTICE_KIND_QUOTA_EXHAUSTED: "notice-quota-exhausted",
    pb.NOTICE_KIND_COOL_DOWN: "notice-cool-down",
    pb.NOTICE_KIND_FAILOVER: "notice-failover",
    pb.NOTICE_KIND_CONSENT: "notice-consent",
    pb.NOTICE_KIND_RECORD_LOCKED: "notice-record-locked",
    pb.NOTICE_KIND_INCOMPLETE: "notice-incomplete",
}

Argument = str | int | float | datetime


class MessagesFaulty(Exception):
    """The sentences of a language, or the copy file, are not complete; the message names what."""


class Notices:
    """Writes sentences for users in en-US, pt-BR and es-ES."""

    def __init__(self, bundles: Mapping[str, FluentBundle], copy: Mapping[str, Any]) -> None:
        self._bundles = bundles
        self._copy = copy

    def sentence(self, key: str, locale: str, **arguments: Argument) -> str:
        """Write the sentence *key*, or an attribute as `key.attribute`.

        Datetimes are written in their own zone.

        Raises KeyError for a key that no file has, since that is a mistake in the code.
        """
        name, _, attribute = key.partition(".")
        message = self._bundles[locale].get_message(name)
        pattern = message.attributes[attribute] if attribute else message.value
        return self._format(pattern, locale, arguments)

    def notice(
        self, kind: pb.NoticeKind.ValueType, locale: str, **arguments: Argument
    ) -> pb.Notice:
        """Write a notice of any kind but an upgrade, which has copy of its own."""
        message = self.sentence(KEYS[kind], locale, **arguments)
        return pb.Notice(kind=kind, message=message, locale=locale)

    @property
    def offered_plans(self) -> list[str]:
        """The plans that the copy file offers, the first one first."""
        return list(self._copy["offers"])

    def upgrade(self, locale: str, *, plan_name: str, offered: str) -> pb.Notice:
        """Write what a user of *plan_name* would gain by the plan *offered*."""
        benefits = self._copy["plans"][offered]["benefits"][locale]
        message = self.sentence(
            "notice-upgrade",
            locale,
            plan=self.plan(plan_name, locale),
            upgrade=self.plan(offered, locale),
            benefits=format_list(benefits, locale=underscored(locale)),
        )
        return pb.Notice(kind=pb.NOTICE_KIND_UPGRADE, message=message, locale=locale)

    def plan(self, name: str, locale: str) -> str:
        """What the copy file calls a plan, or else its own name."""
        named: Mapping[str, str] = self._copy["plans"].get(name, {}).get("name", {})
        return named.get(locale, name.replace("-", " ").capitalize())

    def for_reason(
        self, reason: str, locale: str, *, planned: bool = False, **arguments: Argument
    ) -> tuple[str, str]:
        """Write why something was not done, and what the user can do next (may be empty).

        *reason* is the machine's; one that has no sentence of its own gets a general one. With
        *planned*, why it would not be done.
        """
        bundle = self._bundles[locale]
        key = f"reason-{reason}" if bundle.has_message(f"reason-{reason}") else "reason-OTHER"
        message = bundle.get_message(key)
        step = message.attributes.get("next")
        why = message.attributes.get("planned") if planned else None
        return (
            self._format(why or message.value, locale, arguments),
            self._format(step, locale, arguments) if step else "",
        )

    def _format(self, pattern: Any, locale: str, arguments: Mapping[str, Argument]) -> str:
        values = {
            name: moment(value, locale) if isinstance(value, datetime) else value
            for name, value in arguments.items()
        }
        text, errors = self._bundles[locale].format_pattern(pattern, values)
        if errors:
            raise MessagesFaulty(f"a sentence in {locale} cannot be written: {errors[0]}")
        return " ".join(str(text).split())


def moment(value: datetime, locale: str) -> str:
    """A date and time as people of *locale* write it, in the zone that *value* carries."""
    return format_datetime(value, "short", locale=underscored(locale)).replace("\u202f", " ")


def number(value: float, locale: str) -> str:
    """A number as people of *locale* write it; in powers of ten where its digits would be noise."""
    tag, value = underscored(locale), value or 0
    if abs(value) >= MOST_DIGITS or 0 < abs(value) < 1 / MOST_DIGITS:
        return str(format_scientific(value, locale=tag))
    return str(format_decimal(value, locale=tag))


def underscored(locale: str) -> str:
    return locale.replace("-", "_")


def open_notices() -> Notices:
    """Load and check every language. Raises MessagesFaulty, naming each gap."""
    bundles = {locale: load_bundle(locale) for locale in LOCALES}
    copy = yaml.safe_load(folder().joinpath("benefits.yaml").read_text(encoding="utf-8"))
    faults = [*gaps_of(bundles), *faults_of(copy)]
    if faults:
        raise MessagesFaulty("; ".join(faults))
    return Notices({locale: bundle for locale, (bundle, _) in bundles.items()}, copy)


def load_bundle(locale: str) -> tuple[FluentBundle, set[str]]:
    """Every file of *locale* as one bundle, with the keys in it."""
    bundle = FluentBundle([locale], use_isolating=False)
    keys: set[str] = set()
    for file in sorted(folder().iterdir(), key=lambda file: file.name):
        if file.name.endswith(f".{locale}.ftl"):
            resource = FluentResource(file.read_text(encoding="utf-8"))
            for entry in resource.body:
                if isinstance(entry, ast.Junk):
                    raise MessagesFaulty(f"{file.name}: {entry.annotations[0].message}")
                if isinstance(entry, ast.Message):
                    keys.add(entry.id.name)
                    keys.update(f"{entry.id.name}.{each.id.name}" for each in entry.attributes)
            bundle.add_resource(resource)
    return bundle, keys


def gaps_of(bundles: Mapping[str, tuple[FluentBundle, set[str]]]) -> list[str]:
    every = set().union(*(keys for _, keys in bundles.values())) | set(KEYS.values())
    return [
        f"{locale} lacks {key}"
        for locale, (_, keys) in bundles.items()
        for key in sorted(every - keys)
    ]


def faults_of(copy: Mapping[str, Any]) -> list[str]:
    return [
        f"benefits.yaml lacks {part} of the plan {offered} in {locale}"
        for offered in copy.get("offers", ())
        for part in ("name", "benefits")
        for locale in LOCALES
        if not copy.get("plans", {}).get(offered, {}).get(part, {}).get(locale)
    ]


def folder() -> Any:
    return resources.files("services.gateway") / "messages"
