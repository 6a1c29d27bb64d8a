"""Requests that people made, of domains that nothing was written for (GAT-3, GAT-4)."""

import pytest

from bench.interpret_score import Scored, data_folder, figures, requests_in, score

# Each of so many is read.
EVERY = 12


@pytest.fixture(scope="module")
def scored() -> list[Scored]:
    folder = data_folder()
    if folder is None:
        pytest.skip("the public requests are absent: GATEHOUSE_TEST_DATA names their folder")
    requests = requests_in(folder)
    return [score(each) for each in requests if each.how_to] + [
        score(each) for each in requests[::EVERY]
    ]


def test_what_people_ask_for_is_understood(scored: list[Scored]) -> None:
    """GAT-3: which operation, and in which domain, of most requests."""
    found = figures(scored)
    assert found["operation right"] > 0.95
    assert found["domain right"] > 0.9
    assert found["answered"] > 0.8


def test_requests_to_read_and_what_are_none_change_next_to_nothing(scored: list[Scored]) -> None:
    """GAT-4."""
    found = figures(scored)
    assert found["wrong change"] < 0.01
    assert found["wrong delete"] < 0.002


def test_asking_how_to_do_a_thing_does_not_do_it(scored: list[Scored]) -> None:
    """GAT-4: none of all the questions there are."""
    assert figures(scored)["how-to done"] == 0
