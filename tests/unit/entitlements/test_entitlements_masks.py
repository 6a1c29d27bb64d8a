"""Which fields an update writes."""

import pytest
from gatehouse.entitlements.v1 import entitlements_pb2 as pb
from gatehouse.router.v1 import tier_pb2
from hypothesis import given
from hypothesis import strategies as st

from services.entitlements.masks import (
    DESCRIPTOR_FIELDS,
    PLAN_FIELDS,
    mask_violations,
    masked,
    merged,
)

STANDING = pb.Plan(
    id="1",
    name="gold",
    allows_crud=True,
    analytics_window_days=90,
    model_tiers=[tier_pb2.MODEL_BASIC, tier_pb2.MODEL_SPEED],
    daily_read_limit=100,
    etag="r3",
)
WANTED = pb.Plan(id="2", name="silver", model_tiers=[tier_pb2.MODEL_BASIC], daily_modify_limit=0)


def test_only_masked_fields_change() -> None:
    """ENT-3."""
    plan = merged(STANDING, WANTED, ["name"])
    assert plan.name == "silver"
    plan.name = "gold"
    assert plan == STANDING


def test_a_masked_field_that_is_absent_becomes_absent() -> None:
    """ENT-3: this is how a limit is lifted."""
    plan = merged(STANDING, WANTED, ["daily_read_limit"])
    assert not plan.HasField("daily_read_limit")


def test_zero_is_a_limit_and_not_its_absence() -> None:
    """ENT-1: basic has 0 modifies a day, which is not unlimited."""
    plan = merged(STANDING, WANTED, ["daily_modify_limit"])
    assert plan.HasField("daily_modify_limit")
    assert plan.daily_modify_limit == 0


def test_lists_are_replaced_and_not_added_to() -> None:
    """ENT-3."""
    plan = merged(STANDING, WANTED, ["model_tiers"])
    assert list(plan.model_tiers) == [tier_pb2.MODEL_BASIC]


def test_merging_leaves_what_stands_alone() -> None:
    """ENT-3."""
    before = pb.Plan.FromString(STANDING.SerializeToString())
    merged(STANDING, WANTED, PLAN_FIELDS)
    assert before == STANDING


def test_a_star_means_every_writable_field() -> None:
    """ENT-3."""
    assert masked(["*"], PLAN_FIELDS) == list(PLAN_FIELDS)
    plan = merged(STANDING, WANTED, masked(["*"], PLAN_FIELDS))
    assert (plan.id, plan.etag, plan.name) == ("1", "r3", "silver")


@pytest.mark.parametrize(
    "path", ["", "id", "etag", "created_at", "allowsCrud", "plan.name", "name ", "model_tiers.0"]
)
def test_a_path_that_cannot_be_written_is_named(path: str) -> None:
    """ENT-3."""
    ((place, text),) = mask_violations(["name", path], PLAN_FIELDS)
    assert place == "update_mask.paths[1]"
    assert "daily_read_limit" in text


def test_an_empty_mask_is_refused() -> None:
    """ENT-3."""
    assert [place for place, _ in mask_violations([], PLAN_FIELDS)] == ["update_mask.paths"]


def test_the_writable_fields_are_those_of_the_messages() -> None:
    """ENT-3: a field added to the proto is either writable or output only."""
    output = {"id", "etag", "created_at", "updated_at"}
    assert set(pb.Plan.DESCRIPTOR.fields_by_name) - output == set(PLAN_FIELDS)
    assert set(pb.DomainDescriptor.DESCRIPTOR.fields_by_name) - output == set(DESCRIPTOR_FIELDS)


@given(st.lists(st.sampled_from(PLAN_FIELDS), min_size=1))
def test_each_masked_field_is_written_once_and_then_is_as_wanted(paths: list[str]) -> None:
    """ENT-3: over all masks."""
    fields = masked(paths, PLAN_FIELDS)
    assert sorted(fields) == sorted(set(paths))
    plan = merged(STANDING, WANTED, fields)
    for field in PLAN_FIELDS:
        assert getattr(plan, field) == getattr(WANTED if field in paths else STANDING, field)
