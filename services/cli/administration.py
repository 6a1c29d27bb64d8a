"""Commands of administrators: plans, assignments and domains."""

import json
import uuid
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from gatehouse.entitlements.v1 import entitlements_pb2 as pb
from gatehouse.entitlements.v1.entitlements_pb2_grpc import EntitlementsServiceStub
from gatehouse.router.v1 import tier_pb2
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.json_format import ParseDict, ParseError

from services.cli.connection import Suite, Unusable, find_suite, told_plainly
from services.cli.output import console, print_json, table, tiers, verb

AsJson = Annotated[bool, typer.Option("--json", help="for programs")]

plans = typer.Typer(no_args_is_help=True, help="What subscriptions allow.")
domains = typer.Typer(no_args_is_help=True, help="The domains that instructions reach.")

PAGE_SIZE = 200
WRITABLE = (
    "operations",
    "sensitivity_level",
    "endpoint",
    "entities",
    "synonyms",
    "metrics",
)


@plans.command("list")
def list_plans(as_json: AsJson = False) -> None:
    """The plans, by name."""
    with told_plainly():
        suite = find_suite(admin=True)
        with suite.channel("entitlements") as channel:
            request = pb.ListPlansRequest(page_size=PAGE_SIZE)
            found = EntitlementsServiceStub(channel).ListPlans(request, **suite.call)
    if as_json:
        print_json(found)
        return
    rows = [
        (
            each.name,
            "yes" if each.allows_crud else "no",
            str(each.analytics_window_days),
            limit(each, "daily_read_limit"),
            limit(each, "daily_modify_limit"),
            limit(each, "daily_model_budget_micros"),
            tiers(each.model_tiers),
        )
        for each in found.plans
    ]
    columns = (
        *("plan", "changes", "days of analytics", "reads a day", "changes a day"),
        *("budget a day (millionths)", "tiers"),
    )
    console.print(table("plans", columns, rows))


@plans.command("create")
def create_plan(
    name: str,
    tier: Annotated[list[str], typer.Option(help="a tier of models; may be repeated")],
    days: Annotated[int, typer.Option(help="days that an analysis may look back, to 36500")] = 30,
    changes: Annotated[bool, typer.Option(help="may create, update and delete")] = False,
    reads: Annotated[int | None, typer.Option(help="reads a day; unlimited without")] = None,
    modifies: Annotated[int | None, typer.Option(help="changes a day; unlimited without")] = None,
    budget: Annotated[
        int | None, typer.Option(help="for models a day, in millionths; unlimited without")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a plan."""
    with told_plainly():
        plan = pb.Plan(
            name=name,
            allows_crud=changes,
            analytics_window_days=days,
            model_tiers=[tier_named(each) for each in tier],
            daily_read_limit=reads,
            daily_modify_limit=modifies,
            daily_model_budget_micros=budget,
        )
        suite = find_suite(admin=True)
        with suite.channel("entitlements") as channel:
            request = pb.CreatePlanRequest(plan=plan, request_id=str(uuid.uuid4()))
            made = EntitlementsServiceStub(channel).CreatePlan(request, **suite.call)
    if as_json:
        print_json(made)
    else:
        console.print(f"made the plan {made.plan.name} ({made.plan.id})")


@plans.command("delete")
def delete_plan(name: str) -> None:
    """Delete a plan that nobody has."""
    with told_plainly():
        suite = find_suite(admin=True)
        with suite.channel("entitlements") as channel:
            stub = EntitlementsServiceStub(channel)
            plan = stub.GetPlan(pb.GetPlanRequest(name=name), **suite.call).plan
            stub.DeletePlan(pb.DeletePlanRequest(id=plan.id, etag=plan.etag), **suite.call)
    console.print(f"deleted the plan {name}")


def assign(
    holder: Annotated[str, typer.Argument(help="the id of a user, or of a clinic with --clinic")],
    plan: Annotated[str, typer.Argument(help="the plan's name")],
    clinic: Annotated[bool, typer.Option(help="for all users of a clinic without one")] = False,
    time_zone: Annotated[
        str | None,
        typer.Option(help="with --clinic, the IANA zone whose midnight counts; '' for the token's"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Give a user, or a clinic's users, a plan."""
    with told_plainly():
        if time_zone is not None and not clinic:
            raise Unusable("--time-zone is of a clinic: use it with --clinic")
        suite = find_suite(admin=True)
        with suite.channel("entitlements") as channel:
            stub = EntitlementsServiceStub(channel)
            if clinic:
                set_plan = pb.SetClinicPlanRequest(
                    clinic_id=holder, plan_name=plan, time_zone=time_zone
                )
                answer = stub.SetClinicPlan(set_plan, **suite.call)
            else:
                assign_plan = pb.AssignUserPlanRequest(user_id=holder, plan_name=plan)
                answer = stub.AssignUserPlan(assign_plan, **suite.call)
    if as_json:
        print_json(answer)
    else:
        console.print(f"{holder} has the plan {plan} (revision {answer.revision.number})")
        if isinstance(answer, pb.SetClinicPlanResponse):
            zone = answer.clinic_plan.time_zone or "the zone of each user's token"
            console.print(f"its day begins at midnight in {zone}")


@domains.command("list")
def list_domains(as_json: AsJson = False) -> None:
    """The domains, by name."""
    with told_plainly():
        suite = find_suite(admin=True)
        with suite.channel("entitlements") as channel:
            found = listed(EntitlementsServiceStub(channel), suite)
    if as_json:
        print_json(pb.ListDescriptorsResponse(descriptors=found))
        return
    rows = [
        (
            each.name,
            ", ".join(verb(operation) for operation in each.operations),
            pb.SensitivityLevel.Name(each.sensitivity_level).rpartition("_")[2].lower(),
            ", ".join(entity.name for entity in each.entities),
            ", ".join(each.metrics),
            each.endpoint,
        )
        for each in found
    ]
    columns = ("domain", "offers", "sensitivity", "entities", "metrics", "endpoint")
    console.print(table("domains", columns, rows))


@domains.command("apply")
def apply_domains(
    file: Annotated[Path, typer.Option("-f", "--file", help="descriptors, YAML or JSON")],
    endpoint: Annotated[
        list[str] | None, typer.Option(help="where a domain listens: NAME=ADDRESS")
    ] = None,
) -> None:
    """Make the domains what a file says: create the new ones, update the others."""
    with told_plainly():
        wanted = read_descriptors(file, endpoints_in(endpoint or []))
        suite = find_suite(admin=True)
        with suite.channel("entitlements") as channel:
            for name, done in apply(EntitlementsServiceStub(channel), suite, wanted):
                console.print(f"{name}: {done}")


def apply(
    stub: EntitlementsServiceStub, suite: Suite, wanted: list[pb.DomainDescriptor]
) -> list[tuple[str, str]]:
    """Create or update each of *wanted*; say what was done with each."""
    there = {each.name: each for each in listed(stub, suite)}
    done = []
    for descriptor in wanted:
        known = there.get(descriptor.name)
        if known is None:
            create = pb.CreateDescriptorRequest(descriptor=descriptor, request_id=str(uuid.uuid4()))
            stub.CreateDescriptor(create, **suite.call)
            done.append((descriptor.name, "created"))
        elif same(known, descriptor):
            done.append((descriptor.name, "unchanged"))
        else:
            descriptor.id, descriptor.etag = known.id, known.etag
            update = pb.UpdateDescriptorRequest(
                descriptor=descriptor, update_mask=FieldMask(paths=WRITABLE)
            )
            stub.UpdateDescriptor(update, **suite.call)
            done.append((descriptor.name, "updated"))
    return done


def same(known: pb.DomainDescriptor, wanted: pb.DomainDescriptor) -> bool:
    stripped = pb.DomainDescriptor()
    stripped.CopyFrom(known)
    for output_only in ("id", "etag", "created_at", "updated_at"):
        stripped.ClearField(output_only)
    return stripped == wanted


def listed(stub: EntitlementsServiceStub, suite: Suite) -> list[pb.DomainDescriptor]:
    found: list[pb.DomainDescriptor] = []
    request = pb.ListDescriptorsRequest(page_size=PAGE_SIZE)
    while True:
        page = stub.ListDescriptors(request, **suite.call)
        found += page.descriptors
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


def read_descriptors(file: Path, endpoints: dict[str, str]) -> list[pb.DomainDescriptor]:
    """The descriptors in a file: a list of them, or one under `domains`.

    Raises Unusable, naming the file and what is wrong in it.
    """
    try:
        text = file.read_text(encoding="utf-8")
        read = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, ValueError, yaml.YAMLError) as error:
        raise Unusable(f"{file}: {error}") from None
    entries = read.get("domains") if isinstance(read, dict) else read
    if not isinstance(entries, list) or not entries:
        raise Unusable(f"{file}: expected a list of descriptors under `domains`")
    return [descriptor_in(entry, index, file, endpoints) for index, entry in enumerate(entries)]


def descriptor_in(
    entry: Any, index: int, file: Path, endpoints: dict[str, str]
) -> pb.DomainDescriptor:
    name = entry.get("name", f"number {index + 1}") if isinstance(entry, dict) else index + 1
    try:
        descriptor: pb.DomainDescriptor = ParseDict(entry, pb.DomainDescriptor())
    except (ParseError, AttributeError, TypeError) as error:
        raise Unusable(f"{file}: the domain {name}: {error}") from None
    descriptor.endpoint = endpoints.get(descriptor.name, descriptor.endpoint)
    return descriptor


def endpoints_in(options: list[str]) -> dict[str, str]:
    pairs = [option.partition("=") for option in options]
    wrong = [name for name, equals, address in pairs if not (name and equals and address)]
    if wrong:
        raise Unusable(f"--endpoint {wrong[0]}: expected NAME=ADDRESS")
    return {name: address for name, _, address in pairs}


def tier_named(name: str) -> tier_pb2.Tier.ValueType:
    if name not in tier_pb2.Tier.keys()[1:]:
        offered = ", ".join(tier_pb2.Tier.keys()[1:])
        raise Unusable(f"there is no tier {name}: it is one of {offered}")
    return tier_pb2.Tier.Value(name)


def limit(plan: pb.Plan, field: str) -> str:
    return str(getattr(plan, field)) if plan.HasField(field) else "unlimited"  # type: ignore[arg-type]
