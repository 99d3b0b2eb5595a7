"""The command line of the dashboard: words, shortened and completed, and what is wrong said in words."""

from __future__ import annotations

import pytest

from tui.commands import DEEDS, PAGES, Asked, completed, parse

ALL = {command.word for command in (*PAGES, *DEEDS)}
NODES = ["amd-1", "amd-2", "arm-1"]


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("builds", Asked("builds")),
        ("b", Asked("builds")),
        ("node arm-1", Asked("node", ("arm-1",))),
        ("drain arm-1 amd-2", Asked("drain", ("arm-1", "amd-2"))),
        ("  plan  ", Asked("plan")),
        ("re", "re: resume or restart?"),
        ("p", "p: plan or prune?"),
        ("sing", "there is no command 'sing'"),
        ("", "there is no command ''"),
        ("drain arm-9", "there is no node arm-9"),
        ("node amd-1 amd-2", "node takes one node"),
        ("plan amd-1", "plan takes no nodes"),
    ],
)
def test_what_is_typed(text: str, asked: Asked | str) -> None:
    assert parse(text, ALL, NODES) == asked


def test_what_cannot_be_done_here_is_said_to_be_that() -> None:
    assert parse("drain amd-1", ALL - {"drain"}, NODES) == "drain cannot be done here"


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("dr", "drain"),
        ("drain a", "drain amd-1"),
        ("drain amd-1 a", "drain amd-1 amd-2"),
        ("node ar", "node arm-1"),
        ("node arm-1 a", None),
        ("plan a", None),
        ("", None),
        ("zz", None),
        ("drain ", None),
    ],
)
def test_completion(text: str, whole: str | None) -> None:
    assert completed(text, ALL, NODES) == whole


def test_what_is_not_available_is_not_offered() -> None:
    assert completed("dr", ALL - {"drain"}, NODES) is None
